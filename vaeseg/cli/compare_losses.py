"""`vaeseg-batch compare-losses`: the paper's figure 6, three losses of the autoencoder beside each other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from vaeseg.cli.options import NOTICE, json_option
from vaeseg.cli.training_stages import (
    configs,
    device_option,
    epoch_lines,
    going_on_by_itself,
    seed_option,
    set_option,
    settings_of,
)
from vaeseg.errors import UsageError

if TYPE_CHECKING:
    from vaeseg.training.comparison import LossComparison
    from vaeseg.training.run import TrainedModel, TrainingRequest


@click.command(name="compare-losses")
@click.option("--data", required=True, metavar="DIR", help="Directory or URL of a prepared data set.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("compare-losses"),
    show_default=True,
    help="Where losses.png, losses.json and the models go.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of the paper's 70.")
@click.option("--split", type=click.Choice(["subject", "slice"]), default="subject", show_default=True)
@set_option
@seed_option
@device_option
@json_option
def command(
    data: str,
    out: Path,
    epochs: int | None,
    split: Literal["subject", "slice"],
    settings: tuple[str, ...],
    seed: int,
    device: Literal["auto", "cpu", "cuda"],
    as_json: bool,
) -> None:
    """Train the paper's autoencoder with MSE + 0.1 KL, BCE + KL and BCE + 0.1 KL, and compare them.

    The three start from the same weights and see the same slices in the same order. losses.png has the curves, the
    same dev slices as each of them reconstructs them, and a table; losses.json has the figures. Run again, it goes on
    where it was interrupted.

    Exit codes: 0 ok, 1 a training failed or was interrupted, 2 usage.
    """
    from vaeseg.durable import write_file
    from vaeseg.training.comparison import compare_losses, draw_comparison

    changes = settings_of(settings, ("seed", "split", *(["epochs"] if epochs else [])))
    request = _request(data, out.absolute(), epochs, split, changes, seed, device)
    with going_on_by_itself():
        comparison = compare_losses(request, _trained)
    draw_comparison(comparison, out / "losses.png")
    figures = json.dumps(comparison.as_json(), indent=1, allow_nan=False).encode()
    write_file(out / "losses.json", figures, str(out / "losses.json"))
    if as_json:
        click.echo(json.dumps(comparison.as_json(), allow_nan=False))
    else:
        _print_table(comparison)
    click.echo(f"{out / 'losses.png'}; {NOTICE}", err=True)


def _request(
    data: str,
    out: Path,
    epochs: int | None,
    split: Literal["subject", "slice"],
    settings: dict[str, str],
    seed: int,
    device: Literal["auto", "cpu", "cuda"],
) -> TrainingRequest:
    from vaeseg.inference.predictor import choose_device
    from vaeseg.io.dataset import open_data_set
    from vaeseg.training.run import TrainingRequest

    image_size = open_data_set(data).manifest.preprocessing.image_size
    try:
        training, architecture = configs("vae", "paper", settings, image_size, None)
        return TrainingRequest(
            stage="vae",
            data=data,
            output=out / "vae.safetensors",
            training=replace(training, epochs=epochs or training.epochs, split=split, seed=seed),
            architecture=architecture,
            device=str(choose_device(device)),
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def _trained(request: TrainingRequest) -> TrainedModel:
    from vaeseg.distributed.train import Workers, train_model
    from vaeseg.training.chronicle import chronicled

    with chronicled(request, epoch_lines(request.output.stem)) as observer:
        return train_model(request, Workers(), observer)


def _print_table(comparison: LossComparison) -> None:
    click.echo(f"{'loss':14s} {'MSE':>9s} {'BCE, nats a pixel':>18s} {'KL, nats an image':>18s}")
    for one in comparison.losses:
        click.echo(f"{one.loss.title:14s} {one.mse:9.5f} {one.bce:18.4f} {one.kl:18.1f}")
    click.echo(
        f"{comparison.n_dev_slices} dev slices, {comparison.epochs} epochs, {comparison.latent_numbers} latent "
        f"numbers; an image with itself has a BCE of {comparison.bce_floor:.4f}"
    )
