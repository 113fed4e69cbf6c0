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
    from vaeseg.inference.evaluation import EvaluatedModel, Evaluation
    from vaeseg.inference.evaluation_sources import Part, Source
    from vaeseg.io.splits import SplitKind


@click.command()
@click.option("--model", required=True, help="Name of a model, or a checkpoint file.")
@click.option("--data", metavar="DIR", help="Prepared data set, by path or URL; evaluated at its own resolution.")
@click.option(
    "--split",
    type=click.Choice(["train", "dev", "test", "all"]),
    help="Part of the data set.  [default: test]",
)
@click.option("--by", type=click.Choice(["subject", "slice"]), help="Unit of the split.  [default: subject]")
@click.option("--fold", type=click.IntRange(min=0), help="Which of the splits.  [default: 0]")
@click.option("--msd-dir", type=click.Path(path_type=Path), help="Directory in MSD layout, with dataset.json.")
@click.option("--organ", metavar="LABEL", help="Label value, or its name in dataset.json; any above 0 if not given.")
@click.option(
    "--report",
    "report_dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write report.html, report.json and slices.csv into this directory.",
)
@store_option
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the confidence intervals.")
@click.option("--allow-overlap", is_flag=True, help="Evaluate on subjects that the model was trained on, and say so.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    model: str,
    report_dir: Path | None,
    store: Path,
    device: Literal["auto", "cpu", "cuda"],
    seed: int,
    allow_overlap: bool,
    as_json: bool,
    **place: Any,
) -> None:
    """Segment labelled subjects and say how well it went, with 95 % intervals over subjects.

    Figures are at the image's own resolution; docs/evaluation.md defines each. A model is not evaluated on subjects
    that it was trained on unless --allow-overlap says so.

    Exit codes: 0 ok, 1 the model cannot be used, 2 usage, 3 some volumes could not be evaluated.
    """
    from vaeseg.inference.evaluation import evaluate, load_model, result_json
    from vaeseg.inference.report import make_report_directory
    from vaeseg.models.checkpoint import resolve_model

    source = _source(**place)
    if report_dir is not None:
        make_report_directory(report_dir)
    loaded = load_model(resolve_model(model, store / "models"), device)
    with _progress(len(source)) as on_subject:
        evaluation = evaluate(loaded, source, allow_overlap=allow_overlap, on_subject=on_subject)
    _warn(evaluation)
    _print_result(result_json(evaluation, seed), as_json)
    if report_dir is not None:
        _write_report(loaded, source, evaluation, seed, report_dir)
    ctx.exit(EXIT_INCOMPLETE if evaluation.refused else EXIT_OK)


def _source(
    *,
    data: str | None,
    split: Part | None,
    by: SplitKind | None,
    fold: int | None,
    msd_dir: Path | None,
    organ: str | None,
) -> Source:
    from vaeseg.inference.evaluation_sources import DataSource, MsdSource
    from vaeseg.io.dataset import open_data_set
    from vaeseg.io.msd import read_label_names
    from vaeseg.training.preparation import organ_value

    if (data is None) == (msd_dir is None):
        raise UsageError("give either --data or --msd-dir")
    if msd_dir is not None:
        _refuse_beside("--msd-dir", split=split, by=by, fold=fold)
        return MsdSource(msd_dir, None if organ is None else organ_value(organ, read_label_names(msd_dir)))
    _refuse_beside("--data", organ=organ)
    return DataSource(open_data_set(str(data)), split or "test", by or "subject", fold or 0)


def _refuse_beside(option: str, **others: object) -> None:
    """Options that belong to the other source."""
    for name, given in others.items():
        if given is not None:
            raise UsageError(f"--{name} does not go with {option}")


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


def _write_report(model: EvaluatedModel, source: Source, evaluation: Evaluation, seed: int, directory: Path) -> None:
    from datetime import datetime

    from vaeseg.evaluation.cases import choose_cases
    from vaeseg.inference.case_pictures import picture_cases
    from vaeseg.inference.report import Report, write_report

    pictures = picture_cases(model, source, evaluation.table, choose_cases(evaluation.table))
    now = datetime.now().astimezone()
    write_report(Report(evaluation=evaluation, seed=seed, pictures=pictures, created_at=now), directory)
    click.echo(f"report: {directory / 'report.html'}", err=True)


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


def _print_result(result: dict[str, Any], as_json: bool) -> None:
    """Before the report is made, so that no trouble there costs the figures."""
    if as_json:
        print(json.dumps(result, allow_nan=False), flush=True)
    else:
        _print_table(result)


def _print_table(result: dict[str, Any]) -> None:
    from vaeseg.inference.report import TITLES

    print(f"{result['model']}  sha256 {result['digest'][:16]}  threshold {result['threshold']:g}")
    print(
        f"{result['n_subjects']} subjects, {result['n_slices']} slices, {result['n_label_slices']} with a label, "
        f"{len(result['refused'])} left out"
    )
    for name, text in TITLES.items():
        print(f"  {text:52s} {_figure(result[name]):>8s}  {_interval(result['confidence'][name])}")
    print(f"95 % intervals over subjects; {NOTICE}", file=sys.stderr)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _interval(bounds: list[float] | None) -> str:
    return "" if bounds is None else f"{bounds[0]:.4f} to {bounds[1]:.4f}"
