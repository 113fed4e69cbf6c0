"""`vaeseg-batch train vae|decoder`: train one stage on a prepared data set and put the model into the store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import click

from vaeseg.cli.options import (
    WORKERS,
    address_option,
    database_option,
    directory_for_training,
    json_option,
    made_database_url,
    show_submitted,
    store_option,
    wait_option,
)
from vaeseg.cli.training_stages import Preset, Stage, configs, device_option, seed_option, set_option, settings_of
from vaeseg.errors import UsageError

if TYPE_CHECKING:
    from vaeseg.distributed.train import Workers
    from vaeseg.paths import AnyPath
    from vaeseg.training.observing import EpochReport, Observer
    from vaeseg.training.run import TrainedModel, TrainingRequest


@click.group()
def command() -> None:
    """Train a model on a data set from `vaeseg-batch prepare`.

    Stage one (`vae`) learns to compress slices and needs no labels; stage two (`decoder`) learns tumours, from a
    stage-one model (--vae) or, with the encoder trained too, from nothing. Models go to STORE/models/NAME.safetensors,
    curves, examples and TensorBoard events to STORE/models/NAME.training/.
    """


def _options(function: Callable[..., None]) -> Callable[..., None]:
    """Options that both stages share."""
    for option in reversed(
        [
            click.option("--data", required=True, metavar="DIR", help="Directory or URL of a prepared data set."),
            click.option("--name", required=True, help="Name of the model in the store."),
            store_option,
            click.option("--preset", type=click.Choice(["paper", "improved"]), default="improved", show_default=True),
            click.option("--epochs", type=click.IntRange(min=1), help="Instead of the preset's."),
            click.option(
                "--split",
                type=click.Choice(["subject", "slice"]),
                default="subject",
                show_default=True,
                help="Unit of the data set's split; by slice leaks neighbours, as the paper's table does.",
            ),
            click.option("--fold", type=click.IntRange(min=0), default=0, show_default=True, help="Which split."),
            set_option,
            seed_option,
            device_option,
            click.option(
                "--workers",
                type=WORKERS,
                default="1",
                show_default=True,
                help="Processes that train together; a range lets Ray Train shrink and grow them.",
            ),
            address_option,
            wait_option,
            database_option,
            click.option(
                "--memory",
                type=click.Choice(["auto", "resident", "stream"]),
                default="auto",
                show_default=True,
                help="Keep all slices in memory, or read them through Ray Data; auto decides by size.",
            ),
            click.option(
                "--state-minutes",
                type=click.FloatRange(min=0),
                default=5.0,
                show_default=True,
                help="Between two states within an epoch, to resume from.",
            ),
            click.option("--metrics-port", type=click.IntRange(1, 65535), help="Serve Prometheus on 127.0.0.1."),
            click.option("--half", is_flag=True, help="Store the weights in half precision."),
            click.option("--resume", is_flag=True, help="Go on after an interruption; give the same options."),
            click.option("--force", is_flag=True, help="Replace a model or an unfinished training of that name."),
            json_option,
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
@click.option(
    "--vae",
    help="Model to start from: of stage one, or of stage two to go on training it; a name in the store, or a file.",
)
@_options
def train_decoder(vae: str | None, **options: Any) -> None:
    """Stage two: the segmentation decoder, from slices with labels."""
    _train("decoder", vae=vae, **options)


def _train(
    stage: Stage,
    *,
    as_json: bool,
    workers: tuple[int, int],
    address: str | None,
    wait: bool,
    db: str | None,
    metrics_port: int | None,
    **options: Any,
) -> None:
    from vaeseg.distributed.train import Workers, train_model
    from vaeseg.training.chronicle import chronicled

    processes = Workers(fewest=workers[0], most=workers[1], address=address)
    request = _request(stage, **options)
    if address is not None and "://" in address:
        if metrics_port is not None:
            raise UsageError("--metrics-port has no effect on a job: Ray serves the metrics of its workers")
        _train_by_job(request, processes, options["store"], db, wait, as_json)
        return
    with (
        _progress(request) as shown,
        _published(metrics_port, shown) as published,
        chronicled(request, published) as observer,
    ):
        trained = train_model(request, processes, observer)
    _report(trained, as_json)


def _train_by_job(
    request: TrainingRequest, workers: Workers, store: AnyPath, db: str | None, wait: bool, as_json: bool
) -> None:
    from vaeseg.distributed.training_job import train_by_job

    trained = train_by_job(
        request, workers, made_database_url(store, db), wait, lambda line: click.echo(line, err=True)
    )
    if isinstance(trained, str):
        show_submitted(trained, as_json)
    else:
        _report(trained, as_json)


def _request(
    stage: Stage,
    *,
    vae: str | None,
    data: str,
    name: str,
    store: AnyPath,
    preset: Preset,
    epochs: int | None,
    split: Literal["subject", "slice"],
    fold: int,
    settings: tuple[str, ...],
    seed: int,
    device: Literal["auto", "cpu", "cuda"],
    memory: Literal["auto", "resident", "stream"],
    state_minutes: float,
    half: bool,
    resume: bool,
    force: bool,
) -> TrainingRequest:
    from vaeseg.io.dataset import open_data_set
    from vaeseg.models.checkpoint import load_checkpoint
    from vaeseg.models.files import model_path, resolve_model
    from vaeseg.training.run import TrainingRequest, check_nothing_is_replaced, chosen_split
    from vaeseg.training.seen import remarks

    if resume and force:
        raise UsageError("--resume goes on with a training, --force starts it over: give one of them")
    directory = directory_for_training(store, name)
    changes = settings_of(settings, ("seed", "split", "fold", *(["epochs"] if epochs else [])))
    parent = resolve_model(vae, directory / "models") if vae else None
    before = load_checkpoint(parent) if parent else None
    given = before.architecture if before else None
    prepared = open_data_set(data)
    try:
        training, architecture = configs(stage, preset, changes, prepared.manifest.preprocessing.image_size, given)
        request = TrainingRequest(
            stage=stage,
            data=prepared.location,
            output=model_path(directory / "models", name),
            training=replace(training, epochs=epochs or training.epochs, split=split, fold=fold, seed=seed),
            architecture=architecture,
            parent=parent,
            half=half,
            resume=resume,
            device=device,
            memory=memory,
            state_minutes=state_minutes,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    chosen = chosen_split(prepared, request)
    if not (resume or force):
        check_nothing_is_replaced(request)
    for remark in remarks(prepared, chosen, before) if before else ():
        click.echo(f"vaeseg-batch: {remark}", err=True)
    if preset == "paper" and prepared.manifest.preprocessing.intensity != "minmax":
        click.echo(
            "vaeseg-batch: the paper scales each volume by its own range: prepare with --intensity minmax", err=True
        )
    return request


@contextmanager
def _published(port: int | None, observer: Observer) -> Iterator[Observer]:
    """Prometheus metrics of this training on the loopback interface, where a port is given."""
    from prometheus_client import start_http_server

    from vaeseg.telemetry import REGISTRY
    from vaeseg.training.metrics import TrainingMetrics
    from vaeseg.training.observing import told_both

    if port is None:
        yield observer
        return
    try:
        server, thread = start_http_server(port, addr="127.0.0.1", registry=REGISTRY)
    except OSError as error:
        raise UsageError(f"--metrics-port {port} cannot be used: {error.strerror}") from error
    metrics = TrainingMetrics()
    try:
        yield told_both(observer, metrics.on_step, metrics.on_epoch, metrics.on_resume)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def _progress(request: TrainingRequest) -> Iterator[Observer]:
    """A bar on stderr over the slices of all epochs, and a line an epoch."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from vaeseg.training.lines import epoch_line, losses_line
    from vaeseg.training.observing import Observer

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading slices", total=request.training.epochs, rate="")
        done_epochs = 0

        def on_step(done: int, total: int, losses: Mapping[str, float]) -> None:
            shown = f"epoch {done_epochs + 1}/{request.training.epochs} {losses_line(losses)}"
            bar.update(task, completed=done_epochs + done / total, description=shown)

        def on_epoch(report: EpochReport) -> None:
            nonlocal done_epochs
            done_epochs = report.epoch
            iou = report.dev.get("iou_label_or_prediction")
            shown = f"dev IoU {iou:.3f}, " if iou is not None else ""
            bar.update(task, completed=report.epoch, rate=f"{shown}{report.slices_per_second:.0f} slices/s")
            console.print(epoch_line(report), highlight=False, soft_wrap=True)

        yield Observer(on_step=on_step, on_epoch=on_epoch)


def _report(trained: TrainedModel, as_json: bool) -> None:
    from vaeseg.training.lines import figure

    if as_json:
        result = {
            "model": str(trained.path),
            "digest": trained.digest,
            "metrics": trained.metrics,
            "n_subjects": trained.n_subjects,
            "n_slices": trained.n_slices,
            "epochs": trained.epochs,
            "best_epoch": trained.best_epoch,
        }
        click.echo(json.dumps(result))
        return
    click.echo(
        f"{trained.path}  {trained.n_subjects} subjects, {trained.n_slices} slices, {trained.epochs} epochs, "
        f"best {trained.best_epoch}  (research software)"
    )
    for name, value in trained.metrics.items():
        click.echo(f"  {name} {figure(value)}")
