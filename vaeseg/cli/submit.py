"""`vaeseg-batch submit`: a study directory in, masks and findings out."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import click

from vaeseg.cli.options import NOTICE, json_option, store_options
from vaeseg.errors import EXIT_INCOMPLETE, EXIT_OK, UsageError

if TYPE_CHECKING:
    from vaeseg.distributed.report import RunReport
    from vaeseg.distributed.submit import Preview, Submission

OutputType = Literal["nifti", "png"]
DEFAULT_MODEL = "phantom-v1"


@click.command()
@click.option(
    "--study-dir",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory of DICOM or NIfTI, searched whole.",
)
@click.option(
    "--label-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory of label volumes named <series_instance_uid>.nii.gz; IoU and Dice are measured where one fits.",
)
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Name of a model, or a checkpoint file.")
@store_options
@click.option("--output-type", "output_types", default="nifti", show_default=True, help="nifti, or nifti,png.")
@click.option("--limit", type=click.IntRange(min=1), help="At most this many series in this run.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Slices in one pass.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--retry", is_flag=True, help="Do again the series that failed or crashed before.")
@click.option("--dry-run", is_flag=True, help="Show what would be done; writes nothing.")
@json_option
@click.pass_context
def command(ctx: click.Context, /, as_json: bool, dry_run: bool, **options: Any) -> None:
    """Segment every readable series of a study directory and measure the tumours.

    What was done before is not done again. Exit code 3 when some series failed, crashed or were refused.
    """
    submission = _submission(**options)
    if dry_run:
        _show_preview(_preview(submission), as_json)
        return
    report = _run(submission)
    _show_report(report, submission, as_json)
    ctx.exit(EXIT_OK if report.complete else EXIT_INCOMPLETE)


def _submission(
    *,
    study_dir: Path,
    label_dir: Path | None,
    model: str,
    store: Path,
    db: str | None,
    output_types: str,
    limit: int | None,
    batch_size: int,
    device: Literal["auto", "cpu", "cuda"],
    retry: bool,
) -> Submission:
    from vaeseg.config import RunConfig, SegmentationConfig
    from vaeseg.distributed.submit import Submission
    from vaeseg.inference.predictor import choose_device
    from vaeseg.models.checkpoint import resolve_model

    choose_device(device)
    checkpoint = resolve_model(model, store / "models")
    segmentation = SegmentationConfig(output_types=_output_types(output_types), with_labels=label_dir is not None)
    return Submission(
        study_dir=study_dir.resolve(),
        store_root=store,
        database_url=db,
        model=checkpoint.stem,
        config=RunConfig(
            segmentation=segmentation,
            model_path=str(checkpoint.resolve()),
            label_dir=str(label_dir.resolve()) if label_dir else None,
            limit=limit,
            retry=retry,
            device=device,
            batch_size=batch_size,
        ),
    )


def _output_types(text: str) -> tuple[str, ...]:
    chosen = {part.strip() for part in text.split(",") if part.strip()}
    unknown = chosen - set(get_args(OutputType))
    if unknown:
        raise UsageError(f"unknown output type {', '.join(sorted(unknown))}; there are nifti and png")
    return tuple(sorted(chosen | {"nifti"}))


def _preview(submission: Submission) -> Preview:
    from vaeseg.distributed.submit import preview

    return preview(submission)


def _run(submission: Submission) -> RunReport:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from vaeseg.distributed.report import Progress as RunProgress
    from vaeseg.distributed.submit import submit

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
    with terminal, Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
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

        return submit(submission, show)


def _show_preview(preview: Preview, as_json: bool) -> None:
    from dataclasses import asdict

    fields = asdict(preview)
    if as_json:
        print(json.dumps(fields))
        return
    files = fields.pop("files")
    print("dry run: nothing was written")
    print("series  " + ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in fields.items()))
    print(f"files   {files['found']} found, {files['in_series']} in series, {files['refused']} refused")


def _show_report(report: RunReport, submission: Submission, as_json: bool) -> None:
    if as_json:
        print(json.dumps(_as_json(report, submission)))
        return
    files = report.files
    reasons = ", ".join(f"{reason} {count}" for reason, count in files.refused_by_reason.items())
    print(f"run     {report.run_id} {_what_happened(report)} in {report.seconds:.1f} s ({NOTICE})")
    print("series  " + ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in report.outcomes.items() if n))
    print(
        f"files   {files.found} found, {files.in_series} in series, {files.refused} refused"
        + f" ({reasons})" * bool(reasons)
    )
    if report.unmatched_labels:
        print(f"labels  {report.unmatched_labels} belong to no series found")
    if report.outcomes["left_out"]:
        print(f"note    {report.outcomes['left_out']} series failed before and were left out; --retry does them again")
    print(f"store   {submission.store_root}")
    if report.n_slices:
        print(f"next    vaeseg-batch findings --run {report.run_id} --store {submission.store_root}")


def _what_happened(report: RunReport) -> str:
    return "had nothing to do" if report.status == "nothing_to_do" else "finished"


def _as_json(report: RunReport, submission: Submission) -> dict[str, Any]:
    from sqlalchemy import make_url

    from vaeseg.db.session import sqlite_url
    from vaeseg.io.store import Store

    store = Store(submission.store_root.absolute())
    url = make_url(submission.database_url or sqlite_url(store.database_path))
    return {
        "run_id": report.run_id,
        "status": report.status,
        "store": str(store.root),
        "db": url.render_as_string(hide_password=True),
        "n_series": report.n_series,
        "outcomes": report.outcomes,
        "files": {"found": report.files.found, "in_series": report.files.in_series, "refused": report.files.refused},
        "seconds": round(report.seconds, 3),
        "slices_per_second": round(report.n_slices / report.seconds, 3) if report.n_slices else None,
    }
