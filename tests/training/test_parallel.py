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
from vaeseg.training.parallel import Worker
from vaeseg.training.sources import ResidentSource
from vaeseg.training.synced_norm import SyncedBatchNorm2d

SEVERAL_DEV_SUBJECTS = replace(split(), train=np.arange(18), dev=np.arange(18, 28))
"""Ten dev slices of four subjects, so that a figure by subject needs them in their order."""
DTYPES = (torch.float32, torch.bfloat16)
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
        share = slice(2 * rank, 2 + 3 * rank)
        result = [_normalised(SyncedBatchNorm2d(3), share, dtype) for dtype in DTYPES]
    elif task == "resume":
        result = [report.losses for report in trained(path, worker, 4, resume=True)]
    else:
        result = [report.losses | report.dev for report in trained(path, worker, 4)]
    (path / f"result-{rank}.json").write_text(json.dumps(result))
    dist.destroy_process_group()


def in_two_processes(directory: Path, task: str) -> list[list]:
    multiprocessing.start_processes(work, (str(directory), task), nprocs=2, start_method="spawn")
    return [json.loads((directory / f"result-{rank}.json").read_text()) for rank in range(2)]


def _features(dtype: torch.dtype) -> torch.Tensor:
    """(5, 3, 2, 2) far from zero, so that a careless variance would show, as far as the numbers are fine enough."""
    far = 100 if dtype is torch.float32 else 1
    return (torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(2)) + far).to(dtype)


def _weights() -> torch.Tensor:
    """What each output counts in the test's loss."""
    return torch.arange(60.0).reshape(5, 3, 2, 2)


def _normalised(norm: nn.BatchNorm2d, share: slice, dtype: torch.dtype) -> dict[str, list[float]]:
    """Output, running statistics and gradients of a worker's share of the samples; of the weights, its part of them."""
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 0.5, -2.0]))
        norm.bias.copy_(torch.tensor([0.0, 1.0, -1.0]))
    own = _features(dtype)[share].contiguous(memory_format=torch.channels_last).requires_grad_()
    output = norm(own)
    (output.float().square() * _weights()[share]).sum().backward()
    parts = {"output": output, "mean": norm.running_mean, "variance": norm.running_var, "gradient": own.grad}
    parts |= {"of_weight": norm.weight.grad, "of_bias": norm.bias.grad}
    assert output.dtype is dtype
    return {name: part.flatten().tolist() for name, part in parts.items() if part is not None}


def test_batch_norm_over_two_workers_is_that_over_both_batches(tmp_path: Path) -> None:
    """Outputs, gradients and running statistics equal BatchNorm2d's on the whole, for two samples and three.

    bfloat16 has eight bits: here torch's own gradients of up to 249 are 6 from those of float64.
    """
    of_workers = in_two_processes(tmp_path, "norm")
    for dtype, first, second, fine, coarse in zip(DTYPES, *of_workers, (1e-3, 0.02), (0.05, 8.0), strict=True):
        whole = _normalised(nn.BatchNorm2d(3), slice(None), dtype)
        assert first["output"] + second["output"] == pytest.approx(whole["output"], abs=fine)
        assert first["gradient"] + second["gradient"] == pytest.approx(whole["gradient"], abs=coarse)
        for name in ("of_weight", "of_bias"):
            both = [one + other for one, other in zip(first[name], second[name], strict=True)]
            assert both == pytest.approx(whole[name], rel=fine)
        for worker in (first, second):
            assert worker["mean"] == pytest.approx(whole["mean"], rel=1e-5)
            assert worker["variance"] == pytest.approx(whole["variance"], rel=1e-3)


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
