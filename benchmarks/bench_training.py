"""Slices a second of training: our loop beside the one of the paper's notebook, with the same network and losses.

    python benchmarks/bench.py --only training

- vaeseg: `training.loop.train` with all slices in memory, as a training of one worker runs, in bfloat16 where the
  hardware has it;
- eager torch: float32, AdamW, a DataLoader with two workers over uint8 slices in memory, conversion and augmentation in
  `__getitem__`, and a running mean of the weights where the preset has one.

Three trainings: the paper's autoencoder and decoder at 256 x 256 in batches of 32, and the decoder of the preset
`improved` at 96 x 96 in batches of 16. Either path has its own process. Each round begins anew; our first epoch and the
peer's first steps are not timed, so that neither pays for starting: ours is what every epoch but the first runs at.
Before that, one step on the same batch from the same weights has to give the same loss and the same change of weights.
"""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import torch
from notebook import NotebookSlices, notebook_training
from side_by_side import OURS, Result, in_turns
from torch import Tensor
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader

from vaeseg.config import PhantomConfig, PreprocessingConfig, TrainingConfig, model_preset, training_preset
from vaeseg.geometry.intensity import intensity_ranges, quantised
from vaeseg.io.slices import SliceIndex, SliceSet
from vaeseg.io.splits import Split
from vaeseg.models.precision import name_of, number_type
from vaeseg.models.segmenter import Segmenter
from vaeseg.models.vae import VariationalAutoencoder
from vaeseg.phantom.patient import generate_patient
from vaeseg.training.loop import Keeping, TrainingData, train
from vaeseg.training.observing import EpochReport, Observer
from vaeseg.training.sources import ResidentSource

PEER = "eager torch, float32, DataLoader"
LOSS_TOLERANCE = 3e-4
"""Relative. With double precision as the judge the peer is 1e-7 off, and ours, whose images lie channels last, 1e-4:
logits then carry 1e-3 to 3e-3 of rounding, else 1e-5 (torch 2.13 on one CPU thread, first weights)."""
TIMED_LOSS_TOLERANCE = 0.01
"""Relative; bfloat16 has eight bits."""
CHANGE_TOLERANCE = 0.05
"""Share of weights whose change in one step may differ by more than a tenth of the learning rate: AdamW's first step
divides each gradient by itself, so that one of the size of a rounding error moves its weight by all of it."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One of the trainings that are timed."""

    name: str
    stage: Literal["vae", "decoder"]
    preset: Literal["paper", "improved"]
    size: int
    """Side of the slices, pixels."""
    batch: int
    steps: int
    """Timed in a round; as many epochs of a batch each where an epoch's steps are few."""
    epoch_steps: int = 1

    @property
    def config(self) -> TrainingConfig:
        return replace(training_preset(self.stage, self.preset), batch_size=self.batch)

    def network(self) -> VariationalAutoencoder:
        torch.manual_seed(0)
        kind = VariationalAutoencoder if self.stage == "vae" else Segmenter
        return kind(replace(model_preset(self.preset), image_size=self.size))


CASES = (
    Case(name="training, paper's VAE at 256", stage="vae", preset="paper", size=256, batch=32, steps=2),
    Case(name="training, paper's decoder at 256", stage="decoder", preset="paper", size=256, batch=32, steps=2),
    Case(
        name="training, improved decoder at 96",
        stage="decoder",
        preset="improved",
        size=96,
        batch=16,
        steps=16,
        epoch_steps=16,
    ),
)


def benchmark(scratch: Path, rounds: int) -> list[Result]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return [_measured(case, phantom_slices(scratch, case.size), device, rounds) for case in CASES]


def _measured(case: Case, slices: SliceSet, device: torch.device, rounds: int) -> Result:
    with _process() as own, _process() as peer:
        checked = own.submit(check_one_step, case, slices, device).result()
        paths = {
            OURS: lambda: own.submit(own_rate, case, slices, device).result(),
            PEER: lambda: peer.submit(peer_rate, case, slices, device).result(),
        }
        figures = in_turns(paths, rounds)
    return Result(
        benchmark=case.name,
        unit="slices/s",
        checked=checked,
        figures=figures,
        notes={
            "device": device.type,
            "computed in": name_of(number_type(case.config.precision, device)),
            "batch": case.batch,
            "steps a round": case.steps,
        },
    )


def _process() -> ProcessPoolExecutor:
    """One process, since a training of ours changes how its process keeps memory."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


def own_rate(case: Case, slices: SliceSet, device: torch.device) -> float:
    """Slices a second of every epoch but the first."""
    reports = train_here(case.network().to(device), case, slices, 1 + case.steps // case.epoch_steps)
    n = case.batch * case.epoch_steps
    return n * len(reports[1:]) / sum(n / report.slices_per_second for report in reports[1:])


def train_here(
    model: VariationalAutoencoder, case: Case, slices: SliceSet, epochs: int, **changes: object
) -> list[EpochReport]:
    """Train in place by our loop, with the slices on the model's device; what each epoch reported."""
    n, reports = case.batch * case.epoch_steps, list[EpochReport]()
    config = replace(case.config, epochs=epochs, keep="last", **changes)  # type: ignore[arg-type]
    device = next(model.parameters()).device
    places = np.resize(np.arange(len(slices)), n)
    with TemporaryDirectory() as directory:
        data = TrainingData(
            source=ResidentSource(slices, device, on_device=True),
            index=_index(slices),
            row_groups=np.zeros(len(slices), dtype=np.int64),
            split=Split(kind="slice", train=places, dev=places[:1], test=places[:1], digest="benchmark"),
        )
        train(model, data, config, Keeping(directory=Path(directory)), observer=Observer(on_epoch=reports.append))
    return reports


def peer_rate(case: Case, slices: SliceSet, device: torch.device) -> float:
    """Slices a second after the first steps."""
    warm_up = max(1, case.steps // 2)
    loader = DataLoader(
        NotebookSlices(slices, case.config, case.batch * (warm_up + case.steps)),
        batch_size=case.batch,
        shuffle=True,
        num_workers=2,
        pin_memory=device.type == "cuda",
    )
    moments = [time.perf_counter() for _ in notebook_training(case.network().to(device), loader, case.config)]
    return case.batch * case.steps / (moments[-1] - moments[-1 - case.steps])


def check_one_step(case: Case, slices: SliceSet, device: torch.device) -> str:
    """One step of both from the same weights on the same batch, without augmentation and noise: ours in float32, and
    then in what it is timed in, where gradients are rounded too coarsely for their first step to be compared."""
    plain = {"augmentation": "none", "intensity_jitter": 0.0, "gamma_jitter": 0.0, "noise": 0.0, "warp_share": 0.0}
    plain |= {"latent": "mean", "ema_decay": 0.0, "schedule": "step"}
    before, step = case.network().to(device), replace(case, steps=1, epoch_steps=1)
    config = replace(case.config, **plain)
    loader = DataLoader(NotebookSlices(slices, config, case.batch), batch_size=case.batch)
    update_bn(loader, before.encoder, device)  # else a frozen one finds all slices alike, and decoders amplify rounding
    own, peer = deepcopy(before), deepcopy(before)
    (loss,) = notebook_training(peer, loader, config)
    loss /= case.batch if config.bce_reduction == "sum" else 1
    off = _off(loss, train_here(own, step, slices, 1, **plain, precision="fp32"), LOSS_TOLERANCE)
    timed_off = _off(loss, train_here(deepcopy(before), step, slices, 1, **plain), TIMED_LOSS_TOLERANCE)
    change, wanted = (_flat(model) - _flat(before) for model in (own, peer))
    apart = float(((change - wanted).abs() > 0.1 * config.learning_rate).float().mean())
    assert apart < CHANGE_TOLERANCE, f"{case.name}: one step changed {apart:.2%} of the weights otherwise"
    return (
        f"one step: losses {off:.1g} of themselves, {timed_off:.1g} in what is timed; {apart:.2%} of the "
        "weights moved otherwise"
    )


def _off(wanted: float, reports: list[EpochReport], tolerance: float) -> float:
    loss = reports[0].losses["loss"]
    off = abs(loss - wanted) / abs(wanted)
    assert off < tolerance, f"the loss is {loss}, the peer's {wanted}"
    return off


def phantom_slices(scratch: Path, size: int, n_slices: int = 96) -> SliceSet:
    """Slices of two phantom patients about their tumours, kept below `scratch`."""
    path = scratch / f"training-{size}-{n_slices}.npz"
    if not path.exists():
        phantom = PhantomConfig(image_size=size, z_extent_mm=n_slices / 2, slice_spacing_mm=1.0, tumour_free_share=0.0)
        patients = [generate_patient(5, index, phantom) for index in range(2)]
        volume_hu = np.concatenate([patient.volume_hu for patient in patients])
        images = quantised(volume_hu, intensity_ranges(volume_hu, PreprocessingConfig(image_size=size)), 8)
        np.savez(path, images=images, labels=np.packbits(np.concatenate([p.label for p in patients]), axis=-1))
    with np.load(path) as kept:
        return SliceSet(images=kept["images"], packed_labels=kept["labels"])


def _index(slices: SliceSet) -> SliceIndex:
    """All slices of one volume."""
    n = len(slices)
    return SliceIndex(
        subjects=("s",),
        subject_of_slice=np.zeros(n, dtype=np.int64),
        slice_of_subject=np.arange(n),
        series=("s",),
        series_of_slice=np.zeros(n, dtype=np.int64),
        slice_of_series=np.arange(n),
        spacing_mm=np.ones((n, 3), dtype=np.float32),
        tumour_pixels=slices.labels(np.arange(n)).sum((1, 2)).astype(np.int32),
        has_labels=True,
        tokens=(("t",),),
    )


def _flat(model: VariationalAutoencoder) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])
