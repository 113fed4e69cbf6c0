"""`vaeseg-batch evaluate`: how good a model is on subjects that it has not seen."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vaeseg.cli.options import (
    NOTICE,
    database_option,
    jobs_address_option,
    json_option,
    made_database_url,
    precision_option,
    show_submitted,
    store_option,
    wait_option,
)
from vaeseg.errors import EXIT_INCOMPLETE, EXIT_OK

if TYPE_CHECKING:
    from vaeseg.distributed.evaluate import EvaluationRequest
    from vaeseg.inference.evaluation import Evaluation
    from vaeseg.paths import AnyPath


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
@precision_option
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the confidence intervals.")
@click.option("--allow-overlap", is_flag=True, help="Evaluate on subjects that the model was trained on, and say so.")
@jobs_address_option
@wait_option
@database_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    model: str,
    data: str | None,
    msd_dir: Path | None,
    report_dir: Path | None,
    store: AnyPath,
    db: str | None,
    address: str | None,
    wait: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Segment labelled subjects and say how well it went, with 95 % intervals over subjects.

    Figures are at the image's own resolution; docs/evaluation.md defines each. A model is not evaluated on subjects
    that it was trained on unless --allow-overlap says so.

    Exit codes: 0 ok, 1 the model cannot be used, 2 usage, 3 some volumes could not be evaluated.
    """
    from vaeseg.distributed.evaluate import EvaluationRequest
    from vaeseg.io.store import Store
    from vaeseg.models.files import name_or_path

    request = EvaluationRequest(
        model=name_or_path(model, Store(store).models),
        data=str(Path(data).absolute()) if data and "://" not in data else data,
        msd_dir=str(msd_dir.absolute()) if msd_dir else None,
        report_dir=str(report_dir.absolute()) if report_dir else None,
        **asked,
    )
    result = _by_job(request, address, wait, store, db, as_json) if address else _here(request, as_json)
    ctx.exit(EXIT_INCOMPLETE if result and result["refused"] else EXIT_OK)


def _here(request: EvaluationRequest, as_json: bool) -> dict[str, Any]:
    from vaeseg.distributed.evaluate import EvaluationListener, evaluate_as_asked

    def show(evaluation: Evaluation, result: dict[str, Any]) -> None:
        bar.close()
        _warn(evaluation, result)
        _print_result(result, as_json)

    bar = _Bar()
    with closing(bar):
        result = evaluate_as_asked(
            request, EvaluationListener(on_start=bar.start, on_subject=bar.advance, on_evaluated=show)
        )
    if request.report_dir is not None:
        click.echo(f"report: {Path(request.report_dir) / 'report.html'}", err=True)
    return result


def _by_job(
    request: EvaluationRequest, address: str, wait: bool, store: AnyPath, db: str | None, as_json: bool
) -> dict[str, Any] | None:
    """The result of a job; None where it is not waited for."""
    from vaeseg.distributed.evaluation_job import evaluate_by_job

    result = evaluate_by_job(
        request, address, made_database_url(store, db), wait, lambda line: click.echo(line, err=True)
    )
    if isinstance(result, str):
        show_submitted(result, as_json)
        return None
    _print_result(result, as_json)
    return result


class _Bar:
    """A bar on standard error where that is a terminal; nothing before `start`."""

    def __init__(self) -> None:
        self._close: Callable[[], None] = lambda: None
        self._advance: Callable[[int], None] = lambda n_slices: None

    def start(self, n_items: int) -> None:
        """Show it."""
        shown = ExitStack()
        self._advance = shown.enter_context(_progress(n_items))
        self._close = shown.close

    def advance(self, n_slices: int) -> None:
        """One subject more."""
        self._advance(n_slices)

    def close(self) -> None:
        """Take it away."""
        self._close()


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


def _warn(evaluation: Evaluation, result: dict[str, Any]) -> None:
    from vaeseg.inference.evaluation import remarks

    for item in evaluation.refused:
        click.echo(f"left out {item.name}: {item.reason}: {item.detail}", err=True)
    for remark in remarks(result):
        click.echo(remark, err=True)


def _print_result(result: dict[str, Any], as_json: bool) -> None:
    """Before the report is made, so that no trouble there costs the figures."""
    if as_json:
        print(json.dumps(result, allow_nan=False), flush=True)
    else:
        _print_table(result)


def _print_table(result: dict[str, Any]) -> None:
    from vaeseg.inference.report import TITLES
    from vaeseg.training.lines import figure

    print(f"{result['model']}  sha256 {result['digest'][:16]}  threshold {result['threshold']:g}")
    print(
        f"{result['n_subjects']} subjects, {result['n_slices']} slices, {result['n_label_slices']} with a label, "
        f"{len(result['refused'])} left out"
    )
    for name, text in TITLES.items():
        print(f"  {text:52s} {figure(result[name]):>8s}  {_interval(result['confidence'][name])}")
    print(f"95 % intervals over subjects; {NOTICE}", file=sys.stderr)


def _interval(bounds: list[float] | None) -> str:
    return "" if bounds is None else f"{bounds[0]:.4f} to {bounds[1]:.4f}"
