"""Training on a local Ray: the same model, whatever dies on the way."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray.train
import torch
from local_rays import SHARED_CPUS
from safetensors import safe_open
from training_factories import TINY, request, write_squares

from vaeseg.distributed import ray_train
from vaeseg.distributed.lifecycle import Interruption, RunInterruptedError
from vaeseg.distributed.local import compute_on_own_cores
from vaeseg.distributed.ray_train import _Stop
from vaeseg.distributed.train import Workers, train_model
from vaeseg.errors import StoreError, TrainingError
from vaeseg.models.checkpoint import load_checkpoint
from vaeseg.training.loop import TrainingInterruptedError
from vaeseg.training.observing import EpochReport, Observer
from vaeseg.training.run import TrainingRequest, run_training

pytestmark = pytest.mark.usefixtures("ray_session")

CORES = min(SHARED_CPUS, len(os.sched_getaffinity(0)))
CONFIG = replace(TINY, epochs=3, learning_rate=3e-4, augmentation="dihedral", shuffle_window=16)
"""A learning rate so low that rounding, which grows with every step of a training, stays small."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Ten subjects of ten slices: two row groups."""
    return write_squares(tmp_path_factory.mktemp("data") / "set", slices_each=10)


@pytest.fixture(scope="module")
def alone(data: str, tmp_path_factory: pytest.TempPathFactory) -> list[EpochReport]:
    """What one worker in this process reports, with a batch of 8 and as many threads as it would have on Ray."""
    threads = torch.get_num_threads()
    torch.set_num_threads(CORES)
    reports = reports_of(request(data, tmp_path_factory.mktemp("alone") / "m.safetensors", training=CONFIG))
    torch.set_num_threads(threads)
    return reports


def reports_of(ask: TrainingRequest, workers: Workers | None = None) -> list[EpochReport]:
    reports: list[EpochReport] = []
    train_model(ask, workers or Workers(), Observer(on_epoch=reports.append))
    return reports


def figures(reports: list[EpochReport]) -> list[dict[str, float | None]]:
    return [{**report.losses, **report.dev} for report in reports]


def test_streamed_slices_give_the_losses_of_resident_ones(data: str, alone: list[EpochReport], tmp_path: Path) -> None:
    """Read window by window through Ray Data, in the same order: the same figures bit for bit."""
    streamed = reports_of(request(data, tmp_path / "s.safetensors", training=CONFIG, memory="stream"))
    assert figures(streamed) == figures(alone)


@pytest.mark.parametrize(("device", "told"), [("cpu", [3]), ("cuda", [])])
def test_a_worker_takes_its_share_of_the_cores(
    device: str, told: list[int], data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those of its node, with as many workers as train there; on a GPU it has no use for them."""
    found: list[int] = []
    context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 6, get_local_world_size=lambda: 3)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    monkeypatch.setattr(ray_train, "get_device", lambda: device)
    monkeypatch.setattr(ray_train, "_observer", lambda *_: None)
    monkeypatch.setattr(ray_train, "compute_on_own_cores", found.append)
    monkeypatch.setattr(ray_train, "run_training", lambda *_: found.copy())
    ask = request(data, tmp_path / "m.safetensors", training=CONFIG)
    assert ray_train._train_worker({"request": ask, "board": None}) == told


@pytest.mark.parametrize(("device", "variables"), [("cpu", ray_train.ONE_ARENA), ("cuda", None)])
def test_workers_on_processors_keep_memory_of_any_size(
    device: str, variables: dict[str, str] | None, data: str, tmp_path: Path
) -> None:
    """Their threads have no memory of their own, of which glibc keeps no large piece."""
    trainer = ray_train._trainer(request(data, tmp_path / "m.safetensors", device=device), Workers(), None)
    assert trainer.run_config.worker_runtime_env.get("env_vars") == variables


@pytest.mark.parametrize(("cores", "workers", "logical"), [(64, 2, 64), (4, 8, 10)])
def test_a_ray_of_this_machine_is_told_of_all_cores_and_of_enough(
    cores: int, workers: int, logical: int, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers divide what it was told of; there have to be some left for readers."""

    def told(_: str | None, n_cpus: int) -> None:
        raise StoreError(f"{n_cpus} logical")

    monkeypatch.setattr(ray_train, "start_ray", told)
    monkeypatch.setattr(ray_train, "usable_cores", lambda: cores)
    with pytest.raises(StoreError, match=f"^{logical} logical$"):
        train_model(request(data, tmp_path / "m.safetensors"), Workers(fewest=workers, most=workers), Observer())


@pytest.mark.parametrize("n_sharing", [1, 2, 99])
def test_torch_has_the_cores_of_a_node_and_not_the_one_that_ray_counts(n_sharing: int) -> None:
    """Where several share them, each its part; one at the least."""

    def threads() -> int:
        compute_on_own_cores(n_sharing)
        return torch.get_num_threads()

    assert ray.get(ray.remote(num_cpus=1)(threads).remote()) == max(1, CORES // n_sharing)


def test_two_workers_have_the_losses_of_one_with_twice_the_batch_even_if_one_is_killed(
    data: str, alone: list[EpochReport], tmp_path: Path
) -> None:
    """Batches of 4 in two workers against 8 in one: losses and dev figures of every epoch, and a model at the end.

    SIGKILL for one of them after the first epoch: the training goes on from its state.
    """
    ask = request(data, tmp_path / "m.safetensors", training=replace(CONFIG, batch_size=4))
    reports: list[EpochReport] = []

    def kill_a_worker(report: EpochReport) -> None:
        reports.append(report)
        if len(reports) == 1:
            os.kill(_worker_pids()[-1], signal.SIGKILL)

    train_model(ask, Workers(fewest=2, most=2), Observer(on_epoch=kill_a_worker))
    assert {report.epoch for report in reports} == {1, 2, 3}
    for report in reports:
        expected = figures(alone)[report.epoch - 1]
        assert figures([report])[0] == pytest.approx(expected, rel=5e-3, abs=2e-3)
    assert load_checkpoint(ask.output).kind == "segmenter"
    assert load_checkpoint(ask.output).metadata.workers == 2


def test_an_error_of_one_worker_ends_the_training_at_once(data: str, tmp_path: Path) -> None:
    """The weights of the best epoch cannot be written by worker 0: it is told as it is, the other does not wait for it.

    Nothing is tried again: there was one epoch of one report.
    """
    ask = request(data, tmp_path / "m.safetensors", training=replace(CONFIG, batch_size=4, keep="best_loss"))
    (ask.directory / "best.safetensors").mkdir(parents=True)
    places = []
    with pytest.raises(StoreError, match=r"best\.safetensors cannot be written"):
        train_model(ask, Workers(fewest=2, most=2), Observer(on_step=lambda done, *_: places.append(done)))
    assert places == [80]


def test_a_stop_that_is_asked_for_keeps_the_state_of_the_moment(data: str, tmp_path: Path) -> None:
    """All workers stop after the same step in the middle of an epoch, not before the one that was reported last."""
    training = replace(CONFIG, batch_size=2, epochs=1, slices_per_epoch=100_000)
    ask = request(data, tmp_path / "m.safetensors", training=training, state_minutes=60)
    interruption, places = Interruption("go on"), []

    def interrupt(done: int, total: int, losses: Mapping[str, float]) -> None:
        places.append(done)
        interruption.cancel()

    with pytest.raises(TrainingInterruptedError, match="goes on from here"):
        train_model(ask, Workers(fewest=2, most=2), Observer(on_step=interrupt), interruption)
    with safe_open(ask.state_path, "pt") as state:
        place = json.loads(state.metadata()["progress"])["place"]
    assert places[-1] <= place < 100_000


def test_a_stop_is_waited_for_where_workers_train_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that were not seen yet, or do not answer, do not keep a command from ending."""
    interruption = Interruption("go on")
    stop = _Stop(interruption.check)
    stop.check()
    interruption.cancel()
    with pytest.raises(RunInterruptedError):
        stop.check()
    stop.workers_train = True
    stop.check()
    assert stop.asked.is_set()
    monkeypatch.setattr(ray_train, "STOP_SECONDS", -1.0)
    with pytest.raises(RunInterruptedError):
        stop.check()


@pytest.mark.slow
def test_divergence_is_told_once_and_not_tried_again(data: str, tmp_path: Path) -> None:
    """A loss that is no number ends the training with the sentence that one process would give."""
    ask = request(data, tmp_path / "m.safetensors", training=replace(CONFIG, learning_rate=1e30))
    with pytest.raises(TrainingError, match="lower learning_rate"):
        train_model(ask, Workers(fewest=2, most=2), Observer())
    with pytest.raises(TrainingError, match="nothing to resume"):
        train_model(replace(ask, output=tmp_path / "other.safetensors", resume=True), Workers(most=2), Observer())


@pytest.mark.slow
def test_resume_on_other_workers_goes_on(data: str, tmp_path: Path) -> None:
    """Begun in one process and stopped, a training is taken up by two workers."""
    ask = request(data, tmp_path / "m.safetensors", training=replace(CONFIG, batch_size=4))

    class StoppedError(Exception):
        pass

    def stop(report: EpochReport) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        run_training(ask, Observer(on_epoch=stop))
    assert [report.epoch for report in reports_of(replace(ask, resume=True), Workers(fewest=1, most=2))] == [2, 3]


def _worker_pids() -> list[int]:
    """Processes of Ray Train's workers that descend from this one, and not from another Ray of the machine."""
    return [pid for pid in _descendants(os.getpid()) if b"RayTrainWorker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def _descendants(pid: int) -> list[int]:
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return children + [below for child in children for below in _descendants(child)]
