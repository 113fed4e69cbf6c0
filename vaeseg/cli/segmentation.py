"""Options of commands that segment, the bar they show and the summary they print."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import click

from vaeseg.cli.options import (
    NOTICE,
    WORKERS,
    address_option,
    json_option,
    precision_option,
    store_options,
    wait_option,
)
from vaeseg.errors import EXIT_INCOMPLETE, EXIT_OK, UsageError
from vaeseg.logs import is_json

if TYPE_CHECKING:
    from vaeseg.distributed.report import ProgressCallback, RunReport
    from vaeseg.distributed.submit import Preview, Submission
    from vaeseg.paths import AnyPath

Function = TypeVar("Function", bound=Callable[..., Any])
OutputType = Literal["nifti", "png"]
DEFAULT_MODEL = "phantom-v1"

_OPTIONS = (
    click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Name of a model, or a checkpoint file."),
    store_options,
    click.option("--output-type", "output_types", default="nifti", show_default=True, help="nifti, or nifti,png."),
    click.option("--organ", metavar="LABEL", help="Label value that is compared, for labels with several above 0."),
    click.option("--limit", type=click.IntRange(min=1), help="At most this many series in this run."),
    click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Slices in one pass."),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
    precision_option,
    click.option(
        "--gpu-actors",
        "actors",
        type=WORKERS,
        help="Fewest and most processes that hold the model, one GPU each; by default up to one for each GPU of the "
        "cluster, or for each node if it has none.",
    ),
    address_option,
    wait_option,
    click.option("--retry", is_flag=True, help="Do again the series that failed or crashed before."),
    click.option("--dry-run", is_flag=True, help="Show what would be done; writes nothing."),
    json_option,
)


def segmentation_options(function: Function) -> Function:
    """Add what `submission` takes, --dry-run and --json."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def submission(
    root: AnyPath,
    label_dir: AnyPath | None,
    *,
    rules_file: Path | None = None,
    plan_until: datetime | None = None,
    model: str,
    store: AnyPath,
    db: str | None,
    output_types: str,
    organ: str | None,
    address: str | None,
    wait: bool,
    **of_run: Any,
) -> Submission:
    """What was asked for, checked.

    Args:
        root: absolute path of the archive.
        label_dir: absolute path.
        rules_file: which series to segment.
        plan_until: from this moment on no series is begun; aware.
        model: and the others: as the options have them.
        of_run: options that are named as the fields of `RunConfig` that they set.

    Raises:
        UsageError: no such model, device or output type, an organ that is no label value or is given without labels, or
            rules that cannot be followed.
    """
    from vaeseg.config import RunConfig, SegmentationConfig
    from vaeseg.distributed.submit import Submission
    from vaeseg.io.rules import read_rules
    from vaeseg.io.store import Store
    from vaeseg.models.files import name_or_path, resolve_model

    if address is None and of_run["device"] == "cuda":
        from vaeseg.inference.predictor import choose_device

        choose_device("cuda")
    config = RunConfig(
        segmentation=SegmentationConfig(
            output_types=_output_types(output_types),
            with_labels=label_dir is not None,
            organ=None if organ is None else _organ(organ, label_dir),
        ),
        model_path=name_or_path(model, Store(store).models),
        label_dir=str(label_dir) if label_dir else None,
        rules=read_rules(rules_file) if rules_file else None,
        plan_until=plan_until.astimezone(UTC).isoformat() if plan_until else None,
        **of_run,
    )
    return Submission(
        study_dir=root,
        store_root=store,
        database_url=db,
        model=resolve_model(model, Store(store).models).stem,
        address=address,
        wait=wait,
        config=config,
    )


def carry_out(ctx: click.Context, submitted: Submission, dry_run: bool, as_json: bool) -> None:
    """Run it, or show what it would do; the exit code says whether everything was segmented."""
    if dry_run:
        from vaeseg.distributed.submit import preview

        _show_preview(preview(submitted), as_json)
        return
    from vaeseg.distributed.submit import submit

    conclude(ctx, with_bar(lambda show: submit(submitted, show)), submitted.store_root, submitted.database_url, as_json)


def conclude(ctx: click.Context, report: RunReport, store: AnyPath, db: str | None, as_json: bool) -> None:
    """Print what a run did, and exit; the code is 0 where it did all that it was asked to do."""
    if as_json:
        shown = _as_json(report, store, db)
        print(json.dumps(_not_known_yet(shown) if report.is_under_way else shown))
    else:
        _show_report(report, store)
    ctx.exit(EXIT_OK if report.complete else EXIT_INCOMPLETE)


def _output_types(text: str) -> tuple[str, ...]:
    chosen = {part.strip() for part in text.split(",") if part.strip()}
    unknown = chosen - set(get_args(OutputType))
    if unknown:
        raise UsageError(f"unknown output type {', '.join(sorted(unknown))}; there are nifti and png")
    return tuple(sorted(chosen | {"nifti"}))


def _organ(text: str, label_dir: AnyPath | None) -> int:
    from vaeseg.training.preparation import organ_value

    if label_dir is None:
        raise UsageError(f"--organ {text[:80]}: no directory of labels is given")
    return organ_value(text, None)


def with_bar(work: Callable[[ProgressCallback], RunReport]) -> RunReport:
    """Do it, with a bar on stderr where that is a terminal."""
    with progress_bar() as show:
        return work(show)


@contextmanager
def progress_bar() -> Iterator[ProgressCallback]:
    """A bar on stderr, where that is a terminal, that shows what its callback is given."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from vaeseg.db.summaries import Progress as RunProgress

    columns = (
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("series  {task.fields[slices]} slices  {task.fields[rate]:.1f}/s  {task.fields[failures]} failed"),
        TimeElapsedColumn(),
    )
    # a descriptor of its own: standard error itself is held back while Ray starts
    terminal = os.fdopen(os.dup(sys.stderr.fileno()), "w")
    console = Console(file=terminal)
    with (
        terminal,
        Progress(*columns, console=console, transient=True, disable=is_json() or not console.is_terminal) as bar,
    ):
        task = bar.add_task("reading headers, starting Ray", total=None, slices=0, rate=0.0, failures=0)

        def show(progress: RunProgress) -> None:
            elapsed = bar.tasks[task].elapsed or 1.0
            bar.update(
                task,
                description="segmenting",
                total=progress.series_total,
                completed=progress.series_done,
                slices=progress.slices_done,
                rate=progress.slices_done / elapsed,
                failures=progress.failures,
            )

        yield show


def _show_preview(preview: Preview, as_json: bool) -> None:
    fields = asdict(preview)
    if as_json:
        print(json.dumps(fields))
        return
    files, by_rule = fields.pop("files"), fields.pop("left_out_by_rule")
    print("dry run: nothing was written")
    print("series  " + ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in fields.items()))
    _show_rules(by_rule)
    print(f"files   {files['found']} found, {files['in_series']} in series, {files['refused']} refused")


def _show_report(report: RunReport, store: AnyPath) -> None:
    if report.is_under_way:
        print(f"run     {report.run_id} submitted ({NOTICE})")
        print(f"next    vaeseg-batch status {report.run_id} --watch --store {store}")
        return
    files = report.files
    reasons = ", ".join(f"{reason} {count}" for reason, count in files.refused_by_reason.items())
    print(f"run     {report.run_id} {_what_happened(report)} in {report.seconds:.1f} s ({NOTICE})")
    print("series  " + ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in report.outcomes.items() if n))
    _show_rules(report.left_out_by_rule)
    print(
        f"files   {files.found} found, {files.in_series} in series, {files.refused} refused"
        + f" ({reasons})" * bool(reasons)
        + f", {files.waiting} waiting" * bool(files.waiting)
    )
    print(f"headers {report.index['n_read']} read, {report.index['n_vanished']} files vanished")
    if report.unmatched_labels:
        print(f"labels  {report.unmatched_labels} have the name of no series found, or of several images")
    if report.outcomes["left_out"]:
        print(f"note    {report.outcomes['left_out']} series failed before and were left out; --retry does them again")
    if report.outcomes["pending"]:
        print(
            f"note    {report.outcomes['pending']} series were not begun before --until and are left to the next scan"
        )
    print(f"store   {store}")
    if report.n_slices:
        print(f"next    vaeseg-batch findings --run {report.run_id} --store {store}")


def _show_rules(left_out: Mapping[str, int]) -> None:
    if left_out:
        print("rules   left out: " + ", ".join(f"{rule} {count}" for rule, count in left_out.items()))


def _what_happened(report: RunReport) -> str:
    return "had nothing to do" if report.status == "nothing_to_do" else "finished"


def _not_known_yet(shown: dict[str, Any]) -> dict[str, Any]:
    """Of a run that a cluster has just been given: nothing is counted, which is not 0."""
    known = ("run_id", "store", "db")
    return {key: value if key in known else None for key, value in shown.items()} | {"status": "submitted"}


def _as_json(report: RunReport, store_root: AnyPath, db: str | None) -> dict[str, Any]:
    from sqlalchemy import make_url

    from vaeseg.db.session import masked, sqlite_url
    from vaeseg.io.store import Store

    store = Store(store_root.absolute())
    return {
        "run_id": report.run_id,
        "status": report.status,
        "store": str(store.root),
        "db": masked(make_url(db or sqlite_url(store.database_path))),
        "n_series": report.n_series,
        "outcomes": report.outcomes,
        "left_out_by_rule": report.left_out_by_rule,
        "files": report.files.numbers,
        "index": report.index,
        "seconds": round(report.seconds, 3),
        "slices_per_second": round(report.n_slices / report.seconds, 3) if report.n_slices else None,
    }
