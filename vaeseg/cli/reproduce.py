"""`vaeseg-batch reproduce`: the paper from raw data to its table 3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from vaeseg.cli.options import NOTICE, directory_for_training, json_option, store_option
from vaeseg.cli.training_stages import (
    configs,
    device_option,
    epoch_lines,
    going_on_by_itself,
    seed_option,
    set_option,
    settings_of,
)
from vaeseg.errors import EXIT_INCOMPLETE, EXIT_OK, UsageError

if TYPE_CHECKING:
    from vaeseg.distributed.reproduce import ReproductionRequest
    from vaeseg.io.splits import SplitKind
    from vaeseg.paths import AnyPath

PAPER_IMAGE_SIZE = 256
SPLITS: dict[str, tuple[SplitKind, ...]] = {
    "both": ("slice", "subject"),
    "slice": ("slice",),
    "subject": ("subject",),
}


@click.command()
@click.option(
    "--msd-dir",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The paper's is the lung task of the Medical Segmentation Decathlon.",
)
@click.option("--organ", metavar="LABEL", help="Label value, or its name in dataset.json; any above 0 if not given.")
@click.option("--quick", is_flag=True, help="3 epochs a stage at 64 x 64: shows that it runs, not how good it is.")
@store_option
@click.option("--image-size", type=click.IntRange(64, 4096), help="Side, pixels, a power of two; the paper's is 256.")
@click.option("--split", type=click.Choice(list(SPLITS)), default="both", show_default=True, help="Unit of the split.")
@set_option
@seed_option
@device_option
@json_option
@click.pass_context
def command(ctx: click.Context, /, quick: bool, as_json: bool, **options: Any) -> None:
    """Prepare the data, train both stages with the paper's settings, and print IoU beside the paper's table 3.

    By slice as the paper has it, where neighbours of a test slice were trained on, and by subject. Data, models and
    figures stay in the store: run again, the command leaves out what is done and goes on with what was interrupted.
    --set changes a setting of both stages, such as epochs=5.

    Exit codes: 0 ok, 1 a training failed or was interrupted, 2 usage, 3 done, but some volumes could not be read.
    """
    from vaeseg.distributed.reproduce import Listener, reproduce

    request = _request(quick, **options)
    listener = Listener(say=lambda text: click.echo(text, err=True), training=epoch_lines)
    with going_on_by_itself():
        result = {"quick": quick, **reproduce(request, listener).as_json()}
    click.echo(json.dumps(result, allow_nan=False) if as_json else _table(result))
    for item in result["refused"]:
        click.echo(f"left out {item['name']}: {item['reason']}: {item['detail']}", err=True)
    click.echo(NOTICE, err=True)
    ctx.exit(EXIT_INCOMPLETE if result["refused"] else EXIT_OK)


def _request(
    quick: bool,
    *,
    msd_dir: Path,
    organ: str | None,
    store: AnyPath,
    image_size: int | None,
    split: str,
    settings: tuple[str, ...],
    seed: int,
    device: Literal["auto", "cpu", "cuda"],
) -> ReproductionRequest:
    from vaeseg.distributed.reproduce import QUICK_EPOCHS, QUICK_IMAGE_SIZE, ReproductionRequest
    from vaeseg.inference.predictor import choose_device
    from vaeseg.io.msd import read_label_names
    from vaeseg.training.preparation import organ_value

    size = image_size or (QUICK_IMAGE_SIZE if quick else PAPER_IMAGE_SIZE)
    changes = ({"epochs": str(QUICK_EPOCHS)} if quick else {}) | settings_of(settings, ("seed", "split"))
    try:
        vae, architecture = configs("vae", "paper", changes, size, None)
        decoder, _ = configs("decoder", "paper", changes, size, None)
        if architecture.image_size != size:
            raise ValueError(f"--set image_size={architecture.image_size}: give --image-size instead")
        return ReproductionRequest(
            msd_dir=msd_dir.resolve(),
            organ=None if organ is None else organ_value(organ, read_label_names(msd_dir)),
            store=directory_for_training(store, "NAME"),
            vae=vae,
            decoder=decoder,
            architecture=architecture,
            splits=SPLITS[split],
            seed=seed,
            device="cuda" if choose_device(device).type == "cuda" else "cpu",
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def _table(result: dict[str, Any]) -> str:
    from vaeseg.training.lines import figure

    kinds = list(result["splits"])
    size, epochs = result["image_size"], result["epochs"]
    heads = [["paper", *("here" for _ in kinds)], [f"split by {kind}" for kind in ("slice", *kinds)]]
    parts = ("train", "dev", "test")
    rows = [
        [figure(result["paper"][part]), *(figure(result["splits"][kind][part]) for kind in kinds)] for part in parts
    ]
    lines = [
        f"{size} x {size} pixels, {epochs['vae']} epochs of the autoencoder and {epochs['decoder']} of the decoder; "
        f"{result['n_subjects']} subjects, {result['n_slices']} slices, {result['n_label_slices']} with a label",
        "mean IoU over slices that hold a label or a prediction",
        "",
        *(f"{'':6s}" + "".join(f"{head:>18s}" for head in row) for row in heads),
        *(f"{part:6s}" + "".join(f"{cell:>18s}" for cell in row) for part, row in zip(parts, rows, strict=True)),
        "",
        "Split by slice, neighbours of a test slice were trained on: no figure of unseen patients.",
    ]
    if result["quick"]:
        lines.append("--quick: few epochs on small slices; this shows that it runs, not how good it is.")
    return "\n".join(lines)
