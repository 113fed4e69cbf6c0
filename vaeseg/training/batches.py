"""Which slices make up each step, and their tensors.

Everything random about a step follows from seed, epoch and step number alone, so that a training resumed after a kill
sees exactly what it would have seen. N slices, B batch, S side of the model grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vaeseg.config import TrainingConfig
from vaeseg.models.preprocessing import normalise
from vaeseg.records import IntArray
from vaeseg.training.augment import augment
from vaeseg.training.slices import SliceSet

ORDER, CROP, NOISE = 0, 1, 2
"""What a random stream is for; part of its seed, so that no two streams coincide."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """One step's tensors."""

    images: Tensor
    """(B, 1, J, I) float32 intensity in [0, 1], channels last."""
    labels: Tensor
    """(B, 1, J, I) float32, 0 or 1; zeros without labels."""


def epoch_order(slices: SliceSet, train: IntArray, config: TrainingConfig, epoch: int) -> IntArray:
    """Slice indices of an epoch in the order they are trained on.

    Each training slice once, or `slices_per_epoch` draws of which `tumour_share` hold a label where any does.
    """
    rng = np.random.default_rng([config.seed, ORDER, epoch])
    if not config.slices_per_epoch:
        return np.asarray(rng.permutation(train))
    with_label = train[slices.holds_label()[train]]
    n_tumour = round(config.tumour_share * config.slices_per_epoch) if len(with_label) else 0
    tumour = rng.choice(with_label, n_tumour) if n_tumour else with_label[:0]
    others = rng.choice(train, config.slices_per_epoch - n_tumour)
    return np.asarray(rng.permutation(np.concatenate([tumour, others])))


def training_batch(slices: SliceSet, indices: IntArray, config: TrainingConfig, epoch: int, step: int) -> Batch:
    """The batch of one step, cropped and augmented."""
    rng = np.random.default_rng([config.seed, CROP, epoch, step])
    batch = whole_batch(slices, indices)
    if config.crop_size and config.crop_size < batch.images.shape[-1]:
        batch = _cropped(batch, config.crop_size, rng)
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    images, labels = augment(batch.images, batch.labels, generator, config.augmentation, config.intensity_jitter)
    return Batch(images=images.contiguous(memory_format=torch.channels_last), labels=labels)


def whole_batch(slices: SliceSet, indices: IntArray) -> Batch:
    """Whole slices as they are, for evaluation."""
    ranges = torch.from_numpy(slices.ranges_hu[indices])
    images = normalise(torch.from_numpy(slices.images_hu[indices]), ranges[:, 0], ranges[:, 1])
    labels = torch.zeros(images.shape)
    if slices.packed_labels is not None:
        labels = torch.from_numpy(slices.labels(indices)).float()
    return Batch(images=images[:, None].contiguous(memory_format=torch.channels_last), labels=labels[:, None])


def step_noise(shape: tuple[int, ...], config: TrainingConfig, epoch: int, step: int) -> Tensor:
    """Standard normal float32 for the reparameterisation of one step."""
    rng = np.random.default_rng([config.seed, NOISE, epoch, step])
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def _cropped(batch: Batch, size: int, rng: np.random.Generator) -> Batch:
    """A square from each slice: around a random tumour pixel where there is one, anywhere else."""
    images, labels = [], []
    for image, label in zip(batch.images, batch.labels, strict=True):
        top, left = _corner(label[0], size, rng)
        images.append(image[:, top : top + size, left : left + size])
        labels.append(label[:, top : top + size, left : left + size])
    return Batch(images=torch.stack(images), labels=torch.stack(labels))


def _corner(label: Tensor, size: int, rng: np.random.Generator) -> tuple[int, int]:
    largest = label.shape[-1] - size
    tumour = torch.nonzero(label)
    if not len(tumour):
        top, left = rng.integers(0, largest + 1, 2)
        return int(top), int(left)
    row, column = tumour[int(rng.integers(len(tumour)))].tolist()
    offset = rng.integers(0, size, 2)
    return min(max(row - int(offset[0]), 0), largest), min(max(column - int(offset[1]), 0), largest)
