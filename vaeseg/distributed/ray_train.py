"""Training on several workers by Ray Train.

Ray Train starts the workers, starts them again when one dies, and makes them fewer or more when the cluster shrinks or
grows; each start reads the state that worker 0 keeps in the store, which all nodes share.
"""

from __future__ import annotations

import gc
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from vaeseg.distributed.failures import last_line
from vaeseg.distributed.lifecycle import RunInterruptedError, consume_in_thread
from vaeseg.distributed.local import RayChatter, compute_on_own_cores, gpus_available, start_ray, stop_local_ray
from vaeseg.distributed.streaming import StreamedSource
from vaeseg.distributed.train import Workers
from vaeseg.distributed.worker_metrics import ray_training_metrics
from vaeseg.errors import TrainingError, VaesegError
from vaeseg.limits import usable_cores
from vaeseg.training.lock import locked
from vaeseg.training.loop import TrainingInterruptedError
from vaeseg.training.observing import EpochReport, Observer
from vaeseg.training.parallel import Worker
from vaeseg.training.run import TrainedModel, TrainingRequest, run_training

SPARE_CPUS = 2
"""Logical CPUs of a local Ray beside the workers', at the least: for reading slices, and for Ray Train's controller."""
ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}
"""For workers on processors, which train in a thread: of one with memory of its own glibc keeps no piece of 64 MiB or
more (`training.memory`)."""
POLL_SECONDS = 0.5
STOP_SECONDS = 120.0
"""How long workers that were asked to stop have for the step they are at, and for their state."""
STEP_REPORTS_KEPT = 64
"""Reports that wait for the driver; of more, the oldest are dropped."""


def train_on_ray(
    request: TrainingRequest, workers: Workers, observer: Observer, check: Callable[[], None]
) -> TrainedModel:
    """Train on a Ray cluster, or on a Ray of this machine that ends with the training.

    Args:
        request: what to train; its output lies where all nodes see it.
        workers: how many, and where.
        observer: told what worker 0 reports.
        check: raises `RunInterruptedError` to stop.

    Raises:
        TrainingInterruptedError: `check` asked to stop; the state of that moment is kept, if workers train and answer.
        TrainingError: divergence, nothing to resume, or workers that keep dying.
        StoreError, UsageError: as `training.run.run_training`.
    """
    with redirect_stdout(RayChatter()):
        return _train(request, workers, observer, check)


def _train(request: TrainingRequest, workers: Workers, observer: Observer, check: Callable[[], None]) -> TrainedModel:
    with locked(request.directory):  # workers of another command may train there; ours take it after this
        _make_ready(request)
    ray_is_ours = not ray.is_initialized()
    trained: TrainedModel | None = None
    stop = _Stop(check)
    try:
        for event in consume_in_thread(lambda: _events(request, workers, stop.asked), stop.check):
            stop.workers_train = True
            match event:
                case TrainedModel():
                    trained = event
                case EpochReport():
                    observer.on_epoch(event)
                case (done, total, losses):
                    observer.on_step(done, total, losses)
    except RunInterruptedError:
        go_on = "with --resume goes on from the last state" if request.state_path.is_file() else "starts over"
        raise TrainingInterruptedError(f"training was interrupted; the same command {go_on}") from None
    if ray_is_ours:
        stop_local_ray()
    shutil.rmtree(_ray_storage(request), ignore_errors=True)
    assert trained is not None
    return trained


def _make_ready(request: TrainingRequest) -> None:
    if not request.resume:
        request.state_path.unlink(missing_ok=True)
    elif not request.state_path.is_file():
        raise TrainingError(f"there is nothing to resume: no {request.directory.name}; train without --resume")
    shutil.rmtree(_ray_storage(request), ignore_errors=True)  # Ray Train would take up what a killed one left there


class _Stop:
    """What was asked of this process, handed on to the workers, which keep their state before they end.

    Args:
        check: raises `RunInterruptedError` to stop.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._asked_at = 0.0
        self.asked = threading.Event()
        self.workers_train = False

    def check(self) -> None:
        """Pass it on.

        Raises:
            RunInterruptedError: nobody trains yet, or not for long any more.
        """
        try:
            self._check()
        except RunInterruptedError:
            if not self.asked.is_set():
                self._asked_at = time.monotonic()
                self.asked.set()
            if not self.workers_train or time.monotonic() - self._asked_at > STOP_SECONDS:
                raise


def _events(request: TrainingRequest, workers: Workers, stop: threading.Event) -> Generator[Any]:
    """What the workers report, and at last the model; Ray is started here, outside the main thread."""
    start_ray(workers.address, max(usable_cores(), workers.most + SPARE_CPUS))
    board = _Board.remote()  # type: ignore[attr-defined]  # Ray adds it
    fitting = _Fitting(request, workers, board)
    fitting.start()
    while fitting.is_alive():
        fitting.join(POLL_SECONDS)
        if stop.is_set():
            board.ask_to_stop.remote()
        yield from ray.get(board.taken.remote())
    yield from ray.get(board.taken.remote())
    outcome = fitting.outcome
    del board, fitting
    gc.collect()
    if isinstance(outcome, TrainedModel):
        yield outcome
        return
    raise outcome


def _ray_storage(request: TrainingRequest) -> Path:
    """Ray Train's own notes, of no use after the training; what a resume needs is in our state."""
    return request.directory / "ray"


@ray.remote(num_cpus=0)
class _Board:
    """Where worker 0 pins up what it reports, for the driver to take down, and reads whether to stop."""

    def __init__(self) -> None:
        self._reports: list[Any] = []
        self._stop = False

    def pin(self, report: Any) -> None:
        steps = [kept for kept in self._reports if isinstance(kept, tuple)]
        if len(steps) > STEP_REPORTS_KEPT:
            self._reports.remove(steps[0])
        self._reports.append(report)

    def taken(self) -> list[Any]:
        taken, self._reports = self._reports, []
        return taken

    def ask_to_stop(self) -> None:
        self._stop = True

    def stop_is_asked(self) -> bool:
        return self._stop


class _Fitting(threading.Thread):
    """`TorchTrainer.fit`, which only returns when all is over."""

    def __init__(self, request: TrainingRequest, workers: Workers, board: Any) -> None:
        super().__init__(name="ray-train", daemon=True)
        self._trainer = _trainer(request, workers, board)
        self.outcome: TrainedModel | Exception = TrainingError("Ray Train ended without a word")

    def run(self) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Ray warns of its own settings
                returned = self._trainer.fit().return_value
            self.outcome = returned if returned is not None else self.outcome
        except (RayError, ray.train.TrainingFailedError) as error:
            ours = getattr(error, "controller_failure", None)  # from `_NoMoreTries`
            if not isinstance(ours, VaesegError):
                ours = TrainingError(f"the workers failed: {last_line(error)}; --resume goes on from the last state")
            self.outcome = ours
        except Exception as error:  # noqa: BLE001 - handed over, and raised in the thread that waits for it
            self.outcome = error


def _trainer(request: TrainingRequest, workers: Workers, board: Any) -> TorchTrainer:
    on_gpu = request.device == "cuda" or (request.device == "auto" and gpus_available())
    elastic = workers.fewest != workers.most
    return TorchTrainer(
        _train_worker,
        train_loop_config={"request": request, "board": board},
        scaling_config=ScalingConfig(
            num_workers=(workers.fewest, workers.most) if elastic else workers.most, use_gpu=on_gpu
        ),
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        run_config=RunConfig(
            name=f"train-{request.stage}",
            storage_path=str(_ray_storage(request)),
            failure_config=FailureConfig(max_failures=workers.max_failures),
            callbacks=[_NoMoreTries()],
            worker_runtime_env={} if on_gpu else {"env_vars": ONE_ARENA},
        ),
    )


class _NoMoreTries(UserCallback):  # type: ignore[misc]  # ray has no types
    """Ray Train would try again whatever a worker raises; our own errors would come again.

    One that is raised here, in its controller, comes out of `fit` and ends all workers at once: the others may be
    waiting for the one that failed.
    """

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        for error in worker_exceptions.values():
            if isinstance(error, VaesegError):
                raise error


def _train_worker(config: Mapping[str, Any]) -> TrainedModel:
    """One worker's whole life."""
    request: TrainingRequest = config["request"]
    context = ray.train.get_context()
    worker = Worker(rank=context.get_world_rank(), world=context.get_world_size())
    request = replace(request, device=str(get_device()), resume=request.state_path.is_file())
    if request.device == "cpu":
        compute_on_own_cores(context.get_local_world_size())
    return run_training(request, _observer(worker, config["board"]), worker, StreamedSource)


def _observer(worker: Worker, board: Any) -> Observer:
    """Worker 0 tells the driver, and asks it for all; all of them tell Ray Train, which waits for each."""
    metrics = ray_training_metrics()

    def on_step(done: int, total: int, losses: Mapping[str, float]) -> None:
        if worker.leads:
            metrics.on_step(done, total, losses)
            board.pin.remote((done, total, dict(losses)))

    def on_epoch(report: EpochReport) -> None:
        ray.train.report({"epoch": report.epoch, **report.losses, **{f"dev_{k}": v for k, v in report.dev.items()}})
        if worker.leads:
            metrics.on_epoch(report)
            board.pin.remote(report)

    def should_stop() -> bool:
        return any(worker.gathered(worker.leads and ray.get(board.stop_is_asked.remote())))

    return Observer(on_resume=metrics.on_resume, on_step=on_step, on_epoch=on_epoch, should_stop=should_stop)
