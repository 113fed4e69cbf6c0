"""Slices a second of a training whose slices lie in memory, beside the same from a data set that does not fit there.

    python benchmarks/bench.py --only streaming --scratch DIR

Stage one of the paper at 256 x 256 in batches of 32, on phantoms that are prepared once and kept in DIR, as
`vaeseg-batch train` runs it:

- slices in memory, one process, no Ray;
- slices streamed: one worker of Ray Train, which Ray Data reads ahead for;
- two workers of Ray Train on a CPU, slices in the memory of both, each with half of each step.

Each is a training of two epochs in a process of its own, and the rate that of the second: neither pays for starting.
The losses of the first have to agree.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from side_by_side import OURS, Figure, Result, in_turns

from vaeseg.config import PhantomConfig, PreprocessingConfig, model_preset, training_preset
from vaeseg.io.dataset_manifest import MANIFEST_NAME, Recipe
from vaeseg.training.observing import EpochReport, Observer

PHANTOM = PhantomConfig(n_patients=20, seed=7, image_size=256, slice_spacing_mm=5.0)
BATCH = 32
EPOCH_SLICES = {"cpu": 640, "cuda": 14_080}
"""Drawn anew each epoch; a GPU needs more to be timed by."""
LOSS_TOLERANCE = 1e-3
"""Relative: sums are made in another order with other numbers of threads and workers."""
STANDSTILL = 1e-9
"""The learning rate: with the recipe's, rounding moves the loss by a hundredth within an epoch."""

Device = Literal["cpu", "cuda"]
Memory = Literal["resident", "stream"]


def benchmark(scratch: Path, rounds: int, device: Device = "cpu") -> list[Result]:
    data = prepared_phantoms(scratch)
    paths = {
        f"{OURS}, slices in memory": partial(_reports, data, device, "resident", 1),
        f"{OURS}, streamed through Ray Data": partial(_reports, data, device, "stream", 1),
    }
    if device == "cpu":
        paths[f"{OURS}, two workers of Ray Train"] = partial(_reports, data, device, "resident", 2)
    losses: dict[str, float] = {}

    def rate(name: str) -> float:
        first, second = paths[name]()
        losses[name] = first.losses["loss"]
        assert _apart(losses) < LOSS_TOLERANCE, f"the losses of the first epoch differ: {losses}"
        return second.slices_per_second

    figures = in_turns({name: partial(rate, name) for name in paths}, rounds)
    return [_result(figures, losses, device)]


def _result(figures: tuple[Figure, ...], losses: Mapping[str, float], device: Device) -> Result:
    return Result(
        benchmark="training from memory and streamed, paper's VAE at 256",
        unit="slices/s",
        checked=f"losses of each training's first epoch: {_apart(losses):.1g} of themselves apart",
        is_of_parts=True,
        figures=figures,
        notes={"device": device, "batch": BATCH, "slices an epoch": EPOCH_SLICES[device]},
    )


def _apart(losses: Mapping[str, float]) -> float:
    return (max(losses.values()) - min(losses.values())) / min(losses.values())


def prepared_phantoms(scratch: Path) -> Path:
    """A prepared data set, made unless it is there."""
    from vaeseg.distributed.prepare import PreparationRequest, prepare
    from vaeseg.phantom.msd_writer import write_msd_dataset

    location = scratch / f"phantom-slices-{PHANTOM.image_size}-{PHANTOM.n_patients}"
    if not (location / MANIFEST_NAME).exists():
        with TemporaryDirectory(dir=scratch) as volumes:
            write_msd_dataset(Path(volumes) / "msd", PHANTOM, workers=os.cpu_count() or 1)
            recipe = Recipe(preprocessing=PreprocessingConfig(image_size=PHANTOM.image_size, intensity="minmax"))
            prepare(PreparationRequest(source=Path(volumes) / "msd", recipe=recipe, out=str(location)))
    return location


def _reports(data: Path, device: Device, memory: Memory, n_workers: int) -> list[EpochReport]:
    """Of each epoch, from a process of its own, since a training changes how its process keeps memory."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_train, data, device, memory, n_workers).result()


def _train(data: Path, device: Device, memory: Memory, n_workers: int) -> list[EpochReport]:
    from vaeseg.distributed.train import Workers, train_model
    from vaeseg.training.run import TrainingRequest

    training = replace(
        training_preset("vae", "paper"),
        epochs=2,
        batch_size=BATCH // n_workers,
        slices_per_epoch=EPOCH_SLICES[device],
        learning_rate=STANDSTILL,
    )
    reports: list[EpochReport] = []
    with TemporaryDirectory() as directory:
        request = TrainingRequest(
            stage="vae",
            data=str(data),
            output=Path(directory) / "models" / "streamed.safetensors",
            training=training,
            architecture=replace(model_preset("paper"), image_size=PHANTOM.image_size),
            memory=memory,
            device=device,
        )
        train_model(request, Workers(fewest=n_workers, most=n_workers), Observer(on_epoch=reports.append))
    return reports
