"""`vaeseg-batch status`: which runs there were, and what became of their series."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from vaeseg.cli.columns import Column, print_columns, tells_apart
from vaeseg.cli.options import NOTICE, json_option, opened_for_query, store_options
from vaeseg.cli.segmentation import progress_bar
from vaeseg.errors import UsageError

if TYPE_CHECKING:
    from vaeseg.db.session import Database
    from vaeseg.db.summaries import RunSummary
    from vaeseg.paths import AnyPath


WATCH_SECONDS = 1.0
NO_NAME = "-"
"""Archive or model of a run that has none."""


@click.command()
@click.argument("run_id", required=False)
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Runs to list.")
@click.option("--watch", is_flag=True, help="Follow RUN_ID with a bar until it ends.")
@store_options
@json_option
def command(run_id: str | None, limit: int, watch: bool, store: AnyPath, db: str | None, as_json: bool) -> None:
    """Show the latest runs, or all that is known of RUN_ID.

    A run that says it is running but was not heard of for a minute is shown as lost: its process has died, and the
    next submit does what it left. The list has kind and archive where runs differ in them; where a terminal is narrow,
    outcomes that no run has are left out.

    Exit codes: 0 ok, 1 the database cannot be read, 2 no such run or store.
    """
    from vaeseg.db.summaries import recent_runs, run_summary

    if watch and run_id is None:
        raise UsageError("--watch follows one run: name it")
    with opened_for_query(store, db) as database:
        if watch and run_id is not None:
            _watch(database, run_id)
        summaries = recent_runs(database, limit) if run_id is None else [run_summary(database, run_id)]
    if as_json:
        shown = [_as_json(summary) for summary in summaries]
        print(json.dumps(shown if run_id is None else shown[0]))
    elif run_id is None:
        _print_table(summaries)
    else:
        _print_summary(summaries[0])


def _watch(database: Database, run_id: str) -> None:
    """Show a bar until the run has ended or is lost; what is in it is what the database has."""
    from vaeseg.db.summaries import progress_of, run_summary

    with progress_bar() as show:
        while (summary := run_summary(database, run_id)).status in ("running", "submitted"):
            show(progress_of(summary))
            time.sleep(WATCH_SECONDS)


def _as_json(summary: RunSummary) -> dict[str, Any]:
    files = summary.files
    return {
        "run_id": summary.run_id,
        "kind": summary.kind,
        "archive": summary.archive,
        "model": summary.model,
        "status": summary.status,
        "started_at": summary.started_at.isoformat(),
        "finished_at": summary.finished_at.isoformat() if summary.finished_at else None,
        "heartbeat_at": summary.heartbeat_at.isoformat(),
        "seconds": summary.seconds,
        "outcomes": summary.outcomes,
        "pending": summary.pending,
        "files": None if files is None else files.numbers,
        "refused_by_reason": {} if files is None else files.refused_by_reason,
        "counts": summary.counts,
    }


def _print_table(summaries: list[RunSummary]) -> None:
    if not summaries:
        print("no runs yet", file=sys.stderr)
        return
    print_columns(_columns(summaries), gap=1)
    print(NOTICE, file=sys.stderr)


def _columns(summaries: list[RunSummary]) -> list[Column]:
    """Kind, archive and model where runs differ in them, and the model also where there is room."""
    kind = Column(heading="kind", cells=[summary.kind for summary in summaries], rank=1)
    archive = Column(heading="archive", cells=[summary.archive or NO_NAME for summary in summaries], rank=1)
    model = Column(heading="model", cells=[summary.model or NO_NAME for summary in summaries], rank=3)
    return [
        Column(heading="run", cells=[summary.run_id for summary in summaries]),
        Column(heading="status", cells=[summary.status for summary in summaries]),
        *(column for column in (kind, archive) if _tells_runs_apart(column)),
        *(_counted(name, [summary.outcomes[name] for summary in summaries]) for name in summaries[0].outcomes),
        _counted("pending", [summary.pending for summary in summaries]),
        Column(heading="time", cells=[_duration(summary.seconds) for summary in summaries], is_number=True, rank=3),
        replace(model, rank=1) if _tells_runs_apart(model) else model,
    ]


def _tells_runs_apart(column: Column) -> bool:
    """Runs without a name, such as those of `gc`, are told by their kind."""
    return tells_apart([cell for cell in column.cells if cell != NO_NAME])


def _counted(heading: str, numbers: list[int]) -> Column:
    """Gives way where no run has any."""
    return Column(
        heading=heading, cells=[str(number) for number in numbers], is_number=True, rank=0 if any(numbers) else 2
    )


def _print_summary(summary: RunSummary) -> None:
    lines = {
        "run": summary.run_id,
        "kind": summary.kind,
        "status": summary.status,
        "model": summary.model or NO_NAME,
        "archive": summary.archive or NO_NAME,
        "started": f"{summary.started_at:%Y-%m-%d %H:%M:%S} UTC",
        "time": _duration(summary.seconds),
        "series": ", ".join(f"{count} {name}" for name, count in summary.outcomes.items())
        + f", {summary.pending} pending",
        "files": _files(summary),
    }
    for name, value in lines.items():
        print(f"{name:8} {value}")
    if summary.files:
        for reason, count in sorted(summary.files.refused_by_reason.items()):
            print(f"{'':8} {count} {reason}")
    print(NOTICE, file=sys.stderr)


def _files(summary: RunSummary) -> str:
    if summary.files is None:
        return "-"
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in summary.files.numbers.items())


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
