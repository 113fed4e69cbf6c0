"""`vaeseg-batch train vae|decoder`: train one stage on an MSD data set and put the model into the store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from vaeseg.config import (
    ArchitectureConfig,
    PreprocessingConfig,
    TrainingConfig,
    model_preset,
    training_preset,
    with_settings,
)
from vaeseg.errors import EXIT_ERROR, EXIT_INCOMPLETE, UsageError

if TYPE_CHECKING:
    from vaeseg.models.checkpoint import Checkpoint
    from vaeseg.training.loop import EpochReport, Observer
    from vaeseg.training.run import TrainedModel, TrainingRequest

Stage = Literal["vae", "decoder"]
Preset = Literal["paper", "improved"]


@click.group()
def command() -> None:
    """Train a model on a data set in MSD layout.

    Stage one (`vae`) learns to compress slices and needs no labels; stage two (`decoder`) learns tumours, from a
    stage-one model (--vae) or, with the encoder trained too, from nothing. Models go to STORE/models/NAME.safetensors.
    """


def _options(function: Callable[..., None]) -> Callable[..., None]:
    """Options that both stages share."""
    for option in reversed(
        [
            click.option(
                "--msd-dir", required=True, type=click.Path(path_type=Path), help="Directory with dataset.json."
            ),
            click.option("--name", required=True, help="Name of the model in the store."),
            click.option(
                "--store",
                type=click.Path(path_type=Path),
                default=Path("vaeseg-store"),
                envvar="VAESEG_STORE",
                show_default=True,
                show_envvar=True,
                help="Where models and results are kept.",
            ),
            click.option("--preset", type=click.Choice(["paper", "improved"]), default="improved", show_default=True),
            click.option("--epochs", type=click.IntRange(min=1), help="Instead of the preset's."),
            click.option(
                "--split",
                type=click.Choice(["subject", "slice"]),
                default="subject",
                show_default=True,
                help="Unit of the 80/10/10 split; by slice leaks neighbours, as the paper's table does.",
            ),
            click.option(
                "--set",
                "settings",
                multiple=True,
                metavar="KEY=VALUE",
                help="Change a field of the training, architecture or preprocessing; repeatable.",
            ),
            click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
            click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
            click.option("--half", is_flag=True, help="Store the weights in half precision."),
            click.option("--resume", is_flag=True, help="Go on after an interruption; give the same options."),
            click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout."),
        ]
    ):
        function = option(function)
    return function


@command.command("vae")
@_options
def train_vae(**options: Any) -> None:
    """Stage one: the variational autoencoder, from slices without labels."""
    _train("vae", vae=None, **options)


@command.command("decoder")
@click.option("--vae", help="Stage-one model to start from: a name in the store, or a file.")
@_options
def train_decoder(vae: str | None, **options: Any) -> None:
    """Stage two: the segmentation decoder, from slices with labels."""
    _train("decoder", vae=vae, **options)


def _train(stage: Stage, *, as_json: bool, **options: Any) -> None:
    from vaeseg.training.run import run_training

    request = _request(stage, **options)
    try:
        with _progress(request) as (observer, on_item):
            trained = run_training(request, observer, on_item)
    except KeyboardInterrupt:
        kept = request.state_path.is_file()
        way_on = "the same command with --resume goes on after the last whole epoch" if kept else "nothing was kept"
        click.echo(f"vaeseg-batch: interrupted; {way_on}", err=True)
        raise SystemExit(EXIT_ERROR) from None
    _report(trained, as_json)
    if trained.refused:
        raise SystemExit(EXIT_INCOMPLETE)


def _request(
    stage: Stage,
    *,
    vae: str | None,
    msd_dir: Path,
    name: str,
    store: Path,
    preset: Preset,
    epochs: int | None,
    split: Literal["subject", "slice"],
    settings: tuple[str, ...],
    seed: int,
    device: Literal["auto", "cpu", "cuda"],
    half: bool,
    resume: bool,
) -> TrainingRequest:
    from vaeseg.inference.predictor import choose_device
    from vaeseg.models.checkpoint import load_checkpoint, model_path, resolve_model
    from vaeseg.training.run import TrainingRequest

    parent = load_checkpoint(resolve_model(vae, store / "models")) if vae else None
    try:
        training, architecture, preprocessing = _configs(stage, preset, _parsed(settings), parent)
        return TrainingRequest(
            stage=stage,
            msd_dir=msd_dir,
            output=model_path(store / "models", name),
            training=replace(training, epochs=epochs or training.epochs, split=split, seed=seed),
            architecture=architecture,
            preprocessing=preprocessing,
            parent=parent,
            half=half,
            resume=resume,
            device=str(choose_device(device)),
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def _parsed(settings: tuple[str, ...]) -> dict[str, str]:
    pairs = [setting.partition("=") for setting in settings]
    wrong = [key for key, equals, _ in pairs if not equals]
    if wrong:
        raise ValueError(f"--set {wrong[0]} is not KEY=VALUE")
    return {key: value for key, _, value in pairs}


def _configs(
    stage: Stage, preset: Preset, settings: Mapping[str, str], parent: Checkpoint | None
) -> tuple[TrainingConfig, ArchitectureConfig, PreprocessingConfig]:
    """Presets, then the stage-one model's own network and preprocessing, then what --set says.

    Raises:
        ValueError: a setting that does not exist, has no such value, or would change the stage-one model's network.
    """
    training: TrainingConfig = training_preset(stage, preset)
    architecture, preprocessing = model_preset(preset)
    if parent is not None:
        architecture, preprocessing = parent.architecture, parent.preprocessing
    known = {field.name for config in (training, architecture, preprocessing) for field in fields(config)}
    for key in settings:
        if key not in known:
            raise ValueError(f"--set {key}: there is no such setting; known are {', '.join(sorted(known))}")
    changed = (
        with_settings(training, _for(training, settings)),
        with_settings(architecture, _for(architecture, settings)),
        with_settings(preprocessing, _for(preprocessing, settings)),
    )
    if parent is not None and changed[1:] != (parent.architecture, parent.preprocessing):
        raise ValueError("--set cannot change the network or preprocessing of the stage-one model given by --vae")
    return changed


def _for(config: Any, settings: Mapping[str, str]) -> dict[str, str]:
    return {field.name: settings[field.name] for field in fields(config) if field.name in settings}


@contextmanager
def _progress(request: TrainingRequest) -> Iterator[tuple[Observer, Callable[[str, int], None]]]:
    """A bar on stderr while volumes are read, then one over all slices of all epochs, and a line an epoch."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from vaeseg.training.loop import Observer

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        reading = bar.add_task("volumes", total=None)
        training = bar.add_task("epochs", total=request.training.epochs, visible=False)

        def on_item(name: str, total: int) -> None:
            bar.update(reading, total=total, advance=1)

        def on_step(n_slices: int, losses: Mapping[str, float]) -> None:
            bar.update(training, visible=True, description=f"epochs, loss {losses['loss']:.4g}")

        def on_epoch(report: EpochReport) -> None:
            bar.update(training, visible=True, completed=report.epoch)
            bar.console.print(_epoch_line(report), highlight=False, soft_wrap=True)

        yield Observer(on_step=on_step, on_epoch=on_epoch), on_item


def _epoch_line(report: EpochReport) -> str:
    losses = " ".join(f"{name} {value:.4g}" for name, value in report.losses.items())
    dev = " ".join(f"{name} {_figure(value)}" for name, value in report.dev.items())
    return (
        f"epoch {report.epoch}/{report.epochs}: {losses} | dev {dev} | lr {report.learning_rate:.2g}, "
        f"{report.slices_per_second:.0f} slices/s"
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _report(trained: TrainedModel, as_json: bool) -> None:
    for name, reason in trained.refused:
        click.echo(f"left out {name}: {reason}", err=True)
    if as_json:
        result = {
            "model": str(trained.path),
            "digest": trained.digest,
            "metrics": trained.metrics,
            "n_subjects": trained.n_subjects,
            "n_slices": trained.n_slices,
            "refused": dict(trained.refused),
        }
        click.echo(json.dumps(result))
        return
    click.echo(f"{trained.path}  {trained.n_subjects} subjects, {trained.n_slices} slices  (research software)")
    for name, value in trained.metrics.items():
        click.echo(f"  {name} {_figure(value)}")
