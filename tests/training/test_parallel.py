"""Two workers that train together are one worker with twice the batch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import distributed as dist
from torch import multiprocessing, nn
from training_factories import SMALL, TINY, slice_index, slice_set, split

from vaeseg.models.segmenter import Segmenter
from vaeseg.training.loop import Keeping, TrainingData, TrainingInterruptedError, train
from vaeseg.training.observing import EpochReport, Observer
from vaeseg.training.parallel import SyncedBatchNorm2d, Worker
from vaeseg.training.sources import ResidentSource

SEVERAL_DEV_SUBJECTS = replace(split(), train=np.arange(18), dev=np.arange(18, 28))
"""Ten dev slices of four subjects, so that a figure by subject needs them in their order."""
CONFIG = replace(TINY, epochs=3, batch_size=8, augmentation="dihedral", ema_decay=0.5)


def trained(
    directory: Path, worker: Worker, batch_size: int, resume: bool = False, stop: bool = False
) -> list[EpochReport]:
    """What each epoch reported to one worker."""
    torch.manual_seed(1)
    reports: list[EpochReport] = []
    slices = slice_set()
    train(
        Segmenter(SMALL),
        TrainingData(
            source=ResidentSource(slices, torch.device("cpu")),
            index=slice_index(),
            row_groups=np.zeros(len(slices), dtype=np.int64),
            split=SEVERAL_DEV_SUBJECTS,
        ),
        replace(CONFIG, batch_size=batch_size),
        Keeping(directory=directory, resume=resume),
        worker=worker,
        observer=Observer(on_epoch=reports.append, should_stop=lambda: stop),
    )
    return reports


def work(rank: int, directory: str, task: str) -> None:
    """What each process of a group does."""
    torch.set_num_threads(1)
    path = Path(directory)
    dist.init_process_group("gloo", init_method=f"file://{path / 'meet'}", rank=rank, world_size=2)
    worker = Worker(rank=rank, world=2)
    result: list[Any] = []
    if task == "norm":
        result = _normalised(rank)
    elif task == "resume":
        result = [report.losses for report in trained(path, worker, 4, resume=True)]
    else:
        result = [report.losses | report.dev for report in trained(path, worker, 4)]
    (path / f"result-{rank}.json").write_text(json.dumps(result))
    dist.destroy_process_group()


def in_two_processes(directory: Path, task: str) -> list[list]:
    multiprocessing.start_processes(work, (str(directory), task), nprocs=2, start_method="spawn")
    return [json.loads((directory / f"result-{rank}.json").read_text()) for rank in range(2)]


def _features() -> torch.Tensor:
    """(5, 3, 2, 2) far from zero, so that a careless variance would show."""
    return torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(2)) + 100


def _weights() -> torch.Tensor:
    """What each output counts in the test's loss."""
    return torch.arange(60.0).reshape(5, 3, 2, 2)


def _normalised(rank: int) -> list[list[float]]:
    """Output, running statistics and gradient of one worker's share: two samples, or three."""
    norm = SyncedBatchNorm2d(3)
    own = _features()[2 * rank : 2 + 3 * rank].requires_grad_()
    output = norm(own)
    (output.square() * _weights()[2 * rank : 2 + 3 * rank]).sum().backward()
    assert own.grad is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return [part.flatten().tolist() for part in (output, norm.running_mean, norm.running_var, own.grad)]


def test_batch_norm_over_two_workers_is_that_over_both_batches(tmp_path: Path) -> None:
    """Outputs, gradients and running statistics equal BatchNorm2d's on the whole, for two samples and three."""
    norm = nn.BatchNorm2d(3)
    whole = _features().requires_grad_()
    output = norm(whole)
    (output.square() * _weights()).sum().backward()
    assert whole.grad is not None
    first, second = in_two_processes(tmp_path, "norm")
    assert first[0] + second[0] == pytest.approx(output.flatten().tolist(), abs=1e-3)
    assert first[3] + second[3] == pytest.approx(whole.grad.flatten().tolist(), abs=0.05)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    for worker in (first, second):
        assert worker[1] == pytest.approx(norm.running_mean.tolist(), rel=1e-5)
        assert worker[2] == pytest.approx(norm.running_var.tolist(), rel=1e-3)


def test_two_workers_have_the_losses_of_one_with_twice_the_batch(tmp_path: Path) -> None:
    """Every loss and dev figure of every epoch, in both workers; one of the two writes the state. After three epochs
    whole regions lie at the threshold, so that rounding moves an IoU by more than a loss."""
    (tmp_path / "alone").mkdir()
    alone = [report.losses | report.dev for report in trained(tmp_path / "alone", Worker(), 8)]
    for together in in_two_processes(tmp_path, "train"):
        assert len(together) == len(alone) == 3
        for report, expected in zip(together, alone, strict=True):
            overlaps = {name for name in expected if name.startswith("iou")}
            assert _of(report, overlaps) == pytest.approx(_of(expected, overlaps), abs=5e-3)
            losses = expected.keys() - overlaps
            assert _of(report, losses) == pytest.approx(_of(expected, losses), rel=2e-3)
    assert (tmp_path / "state.safetensors").is_file()


def test_two_workers_end_an_epoch_of_which_one_slice_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker stopped after 17 of 18: losses of that epoch are means over these, and the next epochs are whole."""
    monkeypatch.setattr("vaeseg.training.loop.CHECK_STEPS", 1)
    with pytest.raises(TrainingInterruptedError):
        trained(tmp_path, Worker(), 17, stop=True)
    with safe_open(tmp_path / "state.safetensors", framework="pt") as state:
        progress = json.loads(state.metadata()["progress"])
    assert progress["place"] == 17
    for losses in in_two_processes(tmp_path, "resume"):
        assert len(losses) == 3
        assert losses[0] == pytest.approx({name: total / 17 for name, total in progress["sums"].items()})


def _of(report: dict[str, float | None], names: Iterable[str]) -> dict[str, float | None]:
    return {name: report[name] for name in names}
