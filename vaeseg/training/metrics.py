"""Metrics of a training, as steps and epochs go by; no torch in here."""

from __future__ import annotations

from collections.abc import Mapping

from vaeseg.telemetry import (
    DEV_IOU,
    DEV_LOSS,
    EPOCHS_FINISHED,
    EPOCHS_PLANNED,
    LEARNING_RATE,
    LOSS,
    SLICES_TRAINED,
    TRAINING_SPEED,
    Metric,
    Write,
    write_to_registry,
)
from vaeseg.training.observing import EpochReport


class TrainingMetrics:
    """Metrics of one training; `on_resume`, `on_step` and `on_epoch` fit an `Observer`.

    Args:
        write: where they go.
    """

    def __init__(self, write: Write = write_to_registry) -> None:
        self._write = write
        self._slices_done = 0

    def on_resume(self, done: int) -> None:
        """Leave out the slices of the epoch that another process has trained on."""
        self._slices_done = done

    def on_step(self, done: int, total: int, losses: Mapping[str, float]) -> None:
        """Take in how many slices of the epoch are done, of how many, and its mean losses so far."""
        self._write(SLICES_TRAINED, "", done - self._slices_done)
        self._slices_done = done
        self._write_all(LOSS, losses)

    def on_epoch(self, report: EpochReport) -> None:
        """Set everything that an epoch gave; a figure that is undefined becomes NaN."""
        self._slices_done = 0
        self._write(EPOCHS_FINISHED, "", report.epoch)
        self._write(EPOCHS_PLANNED, "", report.epochs)
        self._write_all(LOSS, report.losses)
        self._write_all(DEV_LOSS, report.dev)
        self._write_all(DEV_IOU, report.dev)
        self._write(LEARNING_RATE, "", report.learning_rate)
        self._write(TRAINING_SPEED, "", report.slices_per_second)

    def _write_all(self, metric: Metric, figures: Mapping[str, float | None]) -> None:
        for name in metric.values:
            if name in figures:
                value = figures[name]
                self._write(metric, name, float("nan") if value is None else value)
