"""What commands that run several trainings share: their settings, and how they tell of their progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vaeseg.errors import TrainingError, UsageError

if TYPE_CHECKING:
    from vaeseg.training.loop import EpochReport, Observer

Function = TypeVar("Function", bound=Callable[..., Any])

SHOWN_DEV_FIGURES = {"loss": "loss", "iou_label_or_prediction": "IoU"}
"""Figures of the dev part in an epoch's line, as far as a stage has them."""

set_option = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a field of the training or the network; repeatable.",
)
"""`settings: tuple[str, ...]`"""

device_option = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
"""`device: str`"""

seed_option = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of every random draw."
)
"""`seed: int`"""


def settings_of(texts: tuple[str, ...]) -> dict[str, str]:
    """`--set` options as a mapping.

    Raises:
        UsageError: one is not KEY=VALUE.
    """
    from vaeseg.cli.train import parsed_settings

    try:
        return parsed_settings(texts)
    except ValueError as error:
        raise UsageError(str(error)) from error


@contextmanager
def going_on_by_itself() -> Iterator[None]:
    """An interruption is told with the way on that these commands have: to be called again.

    Raises:
        TrainingError: a training was interrupted.
    """
    from vaeseg.training.loop import TrainingInterruptedError

    try:
        yield
    except TrainingInterruptedError as error:
        raise TrainingError("training was interrupted; the same command goes on from here") from error


def epoch_lines(title: str) -> Observer:
    """Tells of each epoch in a line on standard error."""
    from vaeseg.training.loop import Observer

    return Observer(on_epoch=lambda report: click.echo(f"{title}: {_epoch_line(report)}", err=True))


def _epoch_line(report: EpochReport) -> str:
    dev = [
        f"{label} {'-' if value is None else format(value, '.4f')}"
        for name, label in SHOWN_DEV_FIGURES.items()
        if name in report.dev
        for value in [report.dev[name]]
    ]
    return (
        f"epoch {report.epoch}/{report.epochs}, loss {report.losses['loss']:.4g}, dev {' '.join(dev)}, "
        f"{report.slices_per_second:.0f} slices/s"
    )
