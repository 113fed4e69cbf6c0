"""Who is told how a training goes, and what; without torch, for those who only show it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """What one epoch gave."""

    epoch: int
    """From 1."""
    epochs: int
    losses: Mapping[str, float]
    """Mean over the epoch's slices: `loss`, and its parts before weighting (`training.objective`)."""
    dev: Mapping[str, float | None]
    """Figures on the dev part, see `training.evaluate`."""
    learning_rate: float
    """Of the epoch's last step."""
    slices_per_second: float
    """Trained on by all workers, evaluation not counted."""
    best_epoch: int
    """The epoch whose dev figure is the best so far."""


@dataclass(frozen=True, kw_only=True)
class Observer:
    """Who is told how training goes."""

    on_resume: Callable[[int], None] = lambda done: None
    """Before the first step of a training that goes on: slices of its epoch that were done before."""
    on_step: Callable[[int, int, Mapping[str, float]], None] = lambda done, total, losses: None
    """Slices of the epoch done, and their number; mean losses so far. About every `loop.CHECK_STEPS` steps."""
    on_epoch: Callable[[EpochReport], None] = lambda report: None
    """After the epoch's state is on disk."""
    should_stop: Callable[[], bool] = lambda: False
    """Asked where `on_step` is told; True ends the training with its state kept (`TrainingInterruptedError`)."""


def told_both(
    observer: Observer,
    on_step: Callable[[int, int, Mapping[str, float]], None] = lambda done, total, losses: None,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
    on_resume: Callable[[int], None] = lambda done: None,
) -> Observer:
    """An observer that is told first, and functions that are told after it."""

    def resume(done: int) -> None:
        observer.on_resume(done)
        on_resume(done)

    def step(done: int, total: int, losses: Mapping[str, float]) -> None:
        observer.on_step(done, total, losses)
        on_step(done, total, losses)

    def epoch(report: EpochReport) -> None:
        observer.on_epoch(report)
        on_epoch(report)

    return Observer(on_resume=resume, on_step=step, on_epoch=epoch, should_stop=observer.should_stop)
