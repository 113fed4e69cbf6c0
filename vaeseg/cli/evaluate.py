"""`vaeseg-batch evaluate`: how good a model is on subjects that it has not seen."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from vaeseg.cli.options import NOTICE, json_option, store_option
from vaeseg.errors import EXIT_INCOMPLETE, EXIT_OK, UsageError

if TYPE_CHECKING:
    from vaeseg.inference.evaluation import Evaluation
    from vaeseg.inference.evaluation_sources import Source

FIGURES = {
    "iou_label": "mean IoU, slices with a label",
    "iou_label_or_prediction": "mean IoU, slices with a label or a prediction",
    "iou_label_median": "median IoU, slices with a label",
    "iou_pooled": "IoU of all pixels together",
    "dice_label": "mean Dice, slices with a label",
    "iou_subject": "mean IoU, mean over subjects of their mean",
    "iou_label_large": "mean IoU, slices with a label of 100 pixels or more",
    "volume_error_ml_median": "median absolute volume error, ml",
    "sensitivity": "share of lesions found",
    "false_positive_slices_share": "share of label-free slices with a prediction",
}
"""What the table calls each figure."""


@click.command()
@click.option("--model", required=True, help="Name of a model, or a checkpoint file.")
@click.option("--msd-dir", type=click.Path(path_type=Path), help="Directory in MSD layout, with dataset.json.")
@click.option("--organ", type=click.IntRange(min=1), metavar="LABEL", help="Label value; else every one above 0.")
@store_option
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the confidence intervals.")
@click.option("--allow-overlap", is_flag=True, help="Evaluate on subjects that the model was trained on, and say so.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    msd_dir: Path | None,
    organ: int | None,
    store: Path,
    device: Literal["auto", "cpu", "cuda"],
    seed: int,
    allow_overlap: bool,
    as_json: bool,
) -> None:
    """Segment labelled subjects and say how well it went, with 95 % intervals over subjects.

    Figures are at the image's own resolution; docs/evaluation.md defines each. A model is not evaluated on subjects
    that it was trained on unless --allow-overlap says so.

    Exit codes: 0 ok, 1 the model cannot be used, 2 usage, 3 some volumes could not be evaluated.
    """
    from vaeseg.inference.evaluation import EvaluationRequest, evaluate, result_json
    from vaeseg.models.checkpoint import resolve_model

    request = EvaluationRequest(
        model=resolve_model(model, store / "models"), device=device, allow_overlap=allow_overlap
    )
    source = _source(msd_dir, organ)
    with _progress(len(source)) as on_subject:
        evaluation = evaluate(request, source, on_subject)
    result = result_json(evaluation, seed)
    _warn(evaluation)
    if as_json:
        print(json.dumps(result, allow_nan=False))
    else:
        _print_table(result)
    ctx.exit(EXIT_INCOMPLETE if evaluation.refused else EXIT_OK)


def _source(msd_dir: Path | None, organ: int | None) -> Source:
    from vaeseg.inference.evaluation_sources import MsdSource

    if msd_dir is None:
        raise UsageError("give --msd-dir")
    return MsdSource(msd_dir, organ)


@contextmanager
def _progress(n_items: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("subjects  {task.fields[slices]} slices"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("evaluating", total=n_items, slices=0)

        def show(n_slices: int) -> None:
            bar.update(task, advance=1, slices=bar.tasks[task].fields["slices"] + n_slices)

        yield show


def _warn(evaluation: Evaluation) -> None:
    for item in evaluation.refused:
        click.echo(f"left out {item.name}: {item.reason}: {item.detail}", err=True)
    if evaluation.overlap_subjects is None:
        click.echo(
            f"whether {evaluation.model} was trained on these subjects cannot be checked: it does not record whom it "
            "has seen",
            err=True,
        )
    elif evaluation.overlap_subjects:
        n_subjects = len(evaluation.table.subjects)
        click.echo(
            f"{evaluation.model} was trained on {evaluation.overlap_subjects} of these {n_subjects} subjects: these "
            "are not figures of unseen patients",
            err=True,
        )


def _print_table(result: dict[str, Any]) -> None:
    print(f"{result['model']}  sha256 {result['digest'][:16]}  threshold {result['threshold']:g}")
    print(
        f"{result['n_subjects']} subjects, {result['n_slices']} slices, {result['n_label_slices']} with a label, "
        f"{len(result['refused'])} left out"
    )
    for name, text in FIGURES.items():
        print(f"  {text:52s} {_figure(result[name]):>8s}  {_interval(result['confidence'][name])}")
    print(f"95 % intervals over subjects; {NOTICE}", file=sys.stderr)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _interval(bounds: list[float] | None) -> str:
    return "" if bounds is None else f"{bounds[0]:.4f} to {bounds[1]:.4f}"
