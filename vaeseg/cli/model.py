"""`vaeseg-batch model`: the models of a store and those that come with vaeseg."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from vaeseg.cli.options import NOTICE, json_option, store_option
from vaeseg.errors import EXIT_INCOMPLETE, EXIT_OK, UsageError

if TYPE_CHECKING:
    from vaeseg.models.registry import ListedModel
    from vaeseg.paths import AnyPath


@click.group()
def command() -> None:
    """List, show, import and export models; write their cards.

    The model files in the store's models directory are the registry, beside those that come with vaeseg. Each is
    checked against its own content digest; one that was changed is refused with a reason.

    Exit codes: 0 ok, 1 the model is refused, 2 usage, 3 some of the listed models are damaged.
    """


@command.command("list")
@store_option
@json_option
@click.pass_context
def list_command(ctx: click.Context, store: AnyPath, as_json: bool) -> None:
    """List models; damaged ones with their reason."""
    from vaeseg.io.store import Store
    from vaeseg.models.registry import list_models

    models = list_models(Store(store).models)
    if as_json:
        print(json.dumps([model.as_json() for model in models], allow_nan=False))
    else:
        _print_list(models)
    ctx.exit(EXIT_INCOMPLETE if any(model.problem for model in models) else EXIT_OK)


@command.command("show")
@click.argument("model")
@store_option
@json_option
def show_command(model: str, store: AnyPath, as_json: bool) -> None:
    """Show all that MODEL, a name or a file, says of itself."""
    shown = _shown(model, store)
    if as_json:
        print(json.dumps(shown.as_json(), allow_nan=False))
    else:
        _print_values(shown.as_json())


@command.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="What to call it in the store.")
@click.option("--force", is_flag=True, help="Replace another model of that name.")
@store_option
def import_command(file: Path, name: str, force: bool, store: AnyPath) -> None:
    """Check FILE, a model file or an ONNX file that vaeseg exported, and put it into the store.

    A file of an older format is written in the present one.
    """
    from vaeseg.io.store import Store
    from vaeseg.models.registry import import_model

    imported = import_model(file, Store(store).models, name, force)
    print(f"{imported.outcome} {name}  sha256 {imported.digest}")


@command.command("export")
@click.argument("model")
@click.option("--format", "kind", type=click.Choice(["safetensors", "onnx"]), default="safetensors", show_default=True)
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="File to write.")
@click.option("--half", is_flag=True, help="Store weights in half precision; safetensors only.")
@store_option
def export_command(model: str, kind: Literal["safetensors", "onnx"], out: Path, half: bool, store: AnyPath) -> None:
    """Write MODEL, a name or a file, as a model file or as an ONNX graph that was compared with torch.

    The graph takes "intensity" (batch, 1, S, S) in [0, 1] and gives "probability" of the same shape.
    """
    from vaeseg.durable import write_file
    from vaeseg.io.store import Store
    from vaeseg.models.checkpoint import load_checkpoint
    from vaeseg.models.files import SUFFIX, read_model_file, resolve_model
    from vaeseg.models.registry import halved

    if half and kind == "onnx":
        raise UsageError("--half goes with --format safetensors only: the graph computes in single precision")
    if out.suffix != (".onnx" if kind == "onnx" else SUFFIX):
        raise UsageError(f"--out {out} does not end with {'.onnx' if kind == 'onnx' else SUFFIX}")
    path = resolve_model(model, Store(store).models)
    checkpoint = load_checkpoint(path)
    if kind == "onnx":
        from vaeseg.models.onnx import to_onnx

        exported = to_onnx(path.stem, checkpoint)
        write_file(out, exported.data, str(out))
        print(f"{out}: largest difference of a probability from torch {exported.max_difference:.2g}")
    else:
        write_file(out, halved(checkpoint) if half else read_model_file(path), str(out))
        print(f"{out}: sha256 {load_checkpoint(out).digest}")


@command.command("card")
@click.argument("model")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write instead of stdout.")
@store_option
def card_command(model: str, out: Path | None, store: AnyPath) -> None:
    """Write the model card of MODEL, a name or a file, in Markdown: what its record says, and nothing else."""
    from vaeseg.durable import write_file
    from vaeseg.models.card import model_card

    card = model_card(_shown(model, store))
    if out is None:
        print(card, end="")
    else:
        write_file(out, card.encode(), str(out))


def _shown(model: str, store: AnyPath) -> ListedModel:
    from vaeseg.io.store import Store
    from vaeseg.models.files import resolve_model
    from vaeseg.models.registry import show_model

    models = Store(store).models
    return show_model(resolve_model(model, models), models)


def _print_list(models: list[ListedModel]) -> None:
    from vaeseg.models.card import plain
    from vaeseg.models.record import dev_metric

    row = "{:24} {:8} {:10} {:16} {:>12} {:>9}  {:40} {:30} {}".format
    print(row("name", "where", "kind", "sha256", "parameters", "MB", "network", "dev", "parent"))
    for model in models:
        megabytes = f"{model.size_bytes / 1e6:.2f}"
        if model.record is None:
            print(f"{model.name:24} {model.where:8} damaged: {plain(model.problem)}")
            continue
        record, dev = model.record, dev_metric(model.record)
        figure = f"{dev[0]} {dev[1]:.4f}" if dev else "-"
        parent = record["parent"] or (record["parent_digest"] or "-")[:16]
        parameters = f"{record['n_parameters']:,}"
        print(
            row(
                model.name, model.where, record["kind"], record["digest"][:16], parameters, megabytes,
                record["summary"], figure, parent,
            )
        )  # fmt: skip
    print(NOTICE, file=sys.stderr)


def _print_values(values: dict[str, object]) -> None:
    """One line a value, nested ones indented; what is not recorded is a dash."""
    from vaeseg.models.card import plain

    for name, value in values.items():
        if isinstance(value, dict):
            print(f"{name}")
            for inner, one in value.items():
                print(f"  {plain(inner):30} {'-' if one is None else plain(one)}")
        elif name != "problem":
            print(f"{name:32} {'-' if value is None else plain(value)}")
    print(NOTICE, file=sys.stderr)
