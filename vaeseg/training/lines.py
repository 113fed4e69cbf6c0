"""How a training goes, in a line: for terminals and for the logs of jobs."""

from __future__ import annotations

from collections.abc import Mapping

from vaeseg.training.observing import EpochReport

LOSS_LABELS = {"reconstruction": "rec", "total": "total", "kl": "kl", "bce": "bce", "dice": "dice", "mse": "mse"}
"""Losses that are shown, as far as a stage has them."""


def epoch_line(report: EpochReport) -> str:
    """One epoch: losses, dev figures, learning rate and speed."""
    dev = " ".join(f"{name} {figure(value)}" for name, value in report.dev.items())
    best = ", best so far" if report.best_epoch == report.epoch else ""
    return (
        f"epoch {report.epoch}/{report.epochs}: {losses_line(report.losses)} | dev {dev}{best} | "
        f"lr {report.learning_rate:.2g}, {report.slices_per_second:.0f} slices/s"
    )


def losses_line(losses: Mapping[str, float]) -> str:
    """The loss and its parts, mean over slices."""
    shown = [f"{label} {losses[name]:.4f}" for name, label in LOSS_LABELS.items() if name in losses]
    return " ".join([f"loss {losses['loss']:.4g}", *shown])


def figure(value: float | None) -> str:
    """A figure, or a dash for one that is undefined."""
    return "-" if value is None else f"{value:.4f}"
