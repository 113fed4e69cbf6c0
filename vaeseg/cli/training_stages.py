"""What commands that train share: options, the configurations that these lead to, and a line for each epoch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Literal

import click

from vaeseg.canonical import with_settings
from vaeseg.config import ArchitectureConfig, TrainingConfig, model_preset, training_preset
from vaeseg.errors import TrainingError, UsageError

if TYPE_CHECKING:
    from vaeseg.training.observing import EpochReport, Observer

Stage = Literal["vae", "decoder"]
Preset = Literal["paper", "improved"]

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


def settings_of(texts: tuple[str, ...], options: Collection[str] = ()) -> dict[str, str]:
    """`--set` options as a mapping.

    Args:
        texts: as given.
        options: settings that an option of the command decides, whatever is set.

    Raises:
        UsageError: one is not KEY=VALUE, or is decided by an option.
    """
    pairs = [text.partition("=") for text in texts]
    for key, equals, _ in pairs:
        if not equals:
            raise UsageError(f"--set {key} is not KEY=VALUE")
        if key in options:
            raise UsageError(f"--set {key} has no effect beside --{key}: give --{key}")
    return {key: value for key, _, value in pairs}


def configs(
    stage: Stage, preset: Preset, settings: Mapping[str, str], image_size: int, given: ArchitectureConfig | None
) -> tuple[TrainingConfig, ArchitectureConfig]:
    """The preset for slices of that size, then the stage-one model's own network, then what --set says.

    Raises:
        ValueError: a setting that does not exist, has no such value, or would change the stage-one model's network.
    """
    training = training_preset(stage, preset)
    architecture = given or replace(model_preset(preset), image_size=image_size)
    known = {field.name for config in (training, architecture) for field in fields(config)}
    for key in settings:
        if key not in known:
            raise ValueError(f"--set {key}: there is no such setting; known are {', '.join(sorted(known))}")
    changed = with_settings(architecture, _for(architecture, settings))
    if given is not None and changed != given:
        raise ValueError("--set cannot change the network of the stage-one model given by --vae")
    return with_settings(training, _for(training, settings)), changed


def _for(config: Any, settings: Mapping[str, str]) -> dict[str, str]:
    return {field.name: settings[field.name] for field in fields(config) if field.name in settings}


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
    from vaeseg.training.observing import Observer

    return Observer(on_epoch=lambda report: click.echo(f"{title}: {_epoch_line(report)}", err=True))


def _epoch_line(report: EpochReport) -> str:
    from vaeseg.training.lines import figure

    dev = [f"{label} {figure(report.dev[name])}" for name, label in SHOWN_DEV_FIGURES.items() if name in report.dev]
    return (
        f"epoch {report.epoch}/{report.epochs}, loss {report.losses['loss']:.4g}, dev {' '.join(dev)}, "
        f"{report.slices_per_second:.0f} slices/s"
    )
