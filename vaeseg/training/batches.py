"""Which slices make up each step, and their tensors.

Everything random about a step follows from seed, epoch and the step's place in the epoch alone, so that a training
resumed after a kill sees exactly what it would have seen, and so that a slice gets the same augmentation and the same
noise whichever of several workers has it. N slices, B batch, G slices of all workers in one step, S side of the grid.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from vaeseg.config import TrainingConfig
from vaeseg.io.slices import SliceIndex
from vaeseg.records import IntArray
from vaeseg.training.augment import crop_corners, cropped, gamma_changed, jittered, moved, noisy, warp_grids, warped
from vaeseg.training.parallel import Worker

ORDER, STEP = 0, 1
"""What a random stream is for; part of its seed, so that no two streams coincide."""

UNIFORMS = {
    "move": slice(0, 1),
    "jitter": slice(1, 3),
    "crop": slice(3, 6),
    "warp": slice(6, 11),
    "gamma": slice(11, 12),
    "noise": slice(12, 13),
}
"""Which columns of a step's uniform numbers decide what; new ones go to the end, so that old ones stay the same."""
N_UNIFORMS = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """One worker's share of a step."""

    images: Tensor
    """(B, 1, J, I) float32 intensity in [0, 1], channels last."""
    labels: Tensor
    """(B, 1, J, I) float32, 0 or 1; zeros without labels."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """Places in the epoch's order that one step of all workers takes: `first` to `end`, exclusive."""

    first: int
    end: int

    def __len__(self) -> int:
        return self.end - self.first

    def share(self, worker: Worker) -> slice:
        """Places of one worker, counted from `first`: as even as can be, each place once."""
        bounds = [len(self) * rank // worker.world for rank in (worker.rank, worker.rank + 1)]
        return slice(*bounds)


def epoch_order(
    index: SliceIndex, row_groups: IntArray, train: IntArray, config: TrainingConfig, epoch: int
) -> IntArray:
    """Slice indices of an epoch in the order they are trained on.

    Each training slice once, or `slices_per_epoch` draws of which `tumour_share` hold a label where any does. Slices
    are shuffled within windows of `shuffle_window`, each of a few row groups chosen at random, so that a set that does
    not fit into memory can be read in the same order as one that does.

    Args:
        index: of all N slices.
        row_groups: (N,) number of the row group that holds each slice.
        train: slices to train on.
        config: seed, window and draws.
        epoch: from 0.
    """
    rng = np.random.default_rng([config.seed, ORDER, epoch])
    drawn = _drawn(index, train, config, rng) if config.slices_per_epoch else train
    rank_of_group = rng.permutation(int(row_groups.max()) + 1)
    by_group = drawn[np.argsort(rank_of_group[row_groups[drawn]], kind="stable")]
    windows = range(0, len(by_group), config.shuffle_window)
    return np.concatenate([rng.permutation(by_group[first : first + config.shuffle_window]) for first in windows])


def steps_of(n_slices: int, first: int, step_size: int, worker: Worker) -> list[Step]:
    """Cut an epoch from place `first` on into steps; a rest with fewer slices than workers joins the step before it.

    Where that was done by fewer workers, the rest is left out: the order is random, and so is who is left out.

    Args:
        n_slices: length of the epoch's order, at least the number of workers.
        first: places already trained on.
        step_size: slices of all workers in one step.
        worker: whose `world` counts the workers.
    """
    bounds = [*range(first, n_slices, step_size), n_slices]
    if len(bounds) > 1 and bounds[-1] - bounds[-2] < worker.world:
        del bounds[-2]
    return [Step(first=low, end=high) for low, high in pairwise(bounds) if high > low]


def step_generator(config: TrainingConfig, epoch: int, step: Step, device: torch.device) -> torch.Generator:
    """The random stream of one step."""
    described = f"{config.seed}:{STEP}:{epoch}:{step.first}".encode()
    seed = int.from_bytes(hashlib.sha256(described).digest()[:8], "little", signed=True)
    return torch.Generator(device).manual_seed(seed)


def augmented(batch: Batch, config: TrainingConfig, step: Step, worker: Worker, generator: torch.Generator) -> Batch:
    """Crop, move, warp and jitter one worker's share of a step."""
    drawn = torch.rand((len(step), N_UNIFORMS), generator=generator, device=batch.images.device)[step.share(worker)]
    uniform = {name: drawn[:, columns] for name, columns in UNIFORMS.items()}
    images, labels = batch.images, batch.labels
    if config.crop_size and config.crop_size < images.shape[-1]:
        corners = crop_corners(labels, uniform["crop"], config.crop_size)
        images, labels = (cropped(part, corners, config.crop_size) for part in (images, labels))
    images, labels = (moved(part, uniform["move"][:, 0], config.augmentation) for part in (images, labels))
    if config.warp_share:
        warp = (config.warp_share, config.warp_scale, config.warp_shift)
        grids = warp_grids(uniform["warp"], images.shape[-1], *warp)
        images, labels = warped(images, grids), (warped(labels, grids) > 0.5).to(labels.dtype)
    images = gamma_changed(images, uniform["gamma"][:, 0], config.gamma_jitter)
    images = jittered(images, uniform["jitter"], config.intensity_jitter)
    if config.noise:
        normal = step_noise((len(step), *images.shape[1:]), step, worker, generator)
        images = noisy(images, uniform["noise"][:, 0], normal, config.noise)
    return Batch(images=images.contiguous(memory_format=torch.channels_last), labels=labels)


def changes_slices(config: TrainingConfig) -> bool:
    """Whether `augmented` may give another image than it got."""
    moves = config.augmentation != "none" or config.crop_size or config.warp_share
    return bool(moves or config.intensity_jitter or config.gamma_jitter or config.noise)


def step_noise(shape: Sequence[int], step: Step, worker: Worker, generator: torch.Generator) -> Tensor:
    """One worker's share of a step's standard normal numbers, for the reparameterisation and for noise.

    Args:
        shape: (G, ...) of the whole step.
        step: whose noise.
        worker: whose share.
        generator: the step's; what is drawn from it first and then is part of the training.

    Returns:
        (B, ...) float32.
    """
    return torch.randn(tuple(shape), generator=generator, device=generator.device)[step.share(worker)]


def _drawn(index: SliceIndex, train: IntArray, config: TrainingConfig, rng: np.random.Generator) -> IntArray:
    with_label = train[index.tumour_pixels[train] > 0]
    n_tumour = round(config.tumour_share * config.slices_per_epoch) if len(with_label) else 0
    tumour = rng.choice(with_label, n_tumour) if n_tumour else with_label[:0]
    return np.concatenate([tumour, rng.choice(train, config.slices_per_epoch - n_tumour)])
