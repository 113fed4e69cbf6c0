"""Runs that have not ended and how far they are, and the last of each kind that has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, select

from vaeseg.db.summaries import Progress, RunSummary, progress_of, shown_status, summaries_where
from vaeseg.db.tables import ArchiveTable, FindingTable, RunTable, WorkItemTable

ACTIVE = ("submitted", "running", "lost")
SEGMENT = "segment"
"""The kind that every archive has runs of."""
NO_ARCHIVE = ""
"""In place of its name: a training is of none."""


@dataclass(frozen=True, kw_only=True)
class RunInProgress:
    """The newest run of its archive and kind that is running."""

    archive: str
    kind: str
    progress: Progress
    eta_seconds: float
    """Until nothing is pending; NaN while that is unknown."""


@dataclass(frozen=True, kw_only=True)
class EndedRun:
    """The newest runs of an archive and kind that ended as they should."""

    archive: str
    kind: str
    finished_at: datetime
    """Of the newest that finished or had nothing to do."""
    finished: RunSummary | None
    """The newest that finished; None where none did."""


def active_runs(connection: Connection, archives: Collection[str], now: datetime) -> Counter[tuple[str, str, str]]:
    """Archive, kind and status to runs that have not ended, of these archives and of none.

    Every status of each kind that is active, and of `SEGMENT` for every archive.
    """
    counts = Counter({(archive, SEGMENT, status): 0 for archive in archives for status in ACTIVE})
    columns = (
        RunTable.kind,
        RunTable.status,
        RunTable.heartbeat_at,
        RunTable.driver,
        ArchiveTable.name.label("archive"),
    )
    statement = (
        select(*columns)
        .join(ArchiveTable, ArchiveTable.id == RunTable.archive_id, isouter=True)
        .where(RunTable.status == "running")
    )
    for row in connection.execute(statement):
        archive = row.archive or NO_ARCHIVE
        if archive == NO_ARCHIVE or archive in archives:
            counts.update({(archive, row.kind, status): 0 for status in ACTIVE})
            counts[archive, row.kind, shown_status(row, now)] += 1
    return counts


def runs_in_progress(connection: Connection, archives: Collection[str], now: datetime) -> tuple[RunInProgress, ...]:
    """The newest running run of each of these archives and kind."""
    newest: dict[tuple[str, str], RunSummary] = {}
    for summary in summaries_where(connection, RunTable.status == "running", now):
        if summary.status == "running" and summary.archive is not None and summary.archive in archives:
            newest.setdefault((summary.archive, summary.kind), summary)
    return tuple(
        RunInProgress(
            archive=archive,
            kind=kind,
            progress=progress_of(summary),
            eta_seconds=_eta_seconds(connection, summary, now),
        )
        for (archive, kind), summary in newest.items()
    )


def _eta_seconds(connection: Connection, summary: RunSummary, now: datetime) -> float:
    """Series pending / rate, where rate = series done in this attempt / seconds since this attempt planned its work.

    What is planned again by an attempt is stamped with the time of the plan, so that a pending series tells it; listing
    and indexing, which come before, do not count. 0 where all that was planned is done, NaN before anything is.
    """
    if not summary.pending:
        return 0.0 if sum(summary.outcomes.values()) else float("nan")
    is_pending = (WorkItemTable.run_id == summary.run_id) & (WorkItemTable.state == "pending")
    planned_at = connection.execute(select(func.max(WorkItemTable.updated_at)).where(is_pending)).scalar_one()
    since = (FindingTable.run_id == summary.run_id) & (FindingTable.created_at >= planned_at)
    done = connection.scalar(select(func.count()).select_from(FindingTable).where(since)) or 0
    return summary.pending * (now - planned_at).total_seconds() / done if done else float("nan")


def ended_runs(connection: Connection, archives: Collection[str], now: datetime) -> tuple[EndedRun, ...]:
    """The newest of each of these archives, and of none, and kind."""
    rows = [row for row in _newest_ended(connection) if row.archive is None or row.archive in archives]
    finished_ids = [row.id for row in rows if row.status == "finished"]
    finished = {summary.run_id: summary for summary in summaries_where(connection, RunTable.id.in_(finished_ids), now)}
    ended: dict[tuple[str, str], EndedRun] = {}
    for row in sorted(rows, key=lambda row: row.status):  # "finished" before "nothing_to_do"
        known = ended.get((row.archive or NO_ARCHIVE, row.kind))
        ended[row.archive or NO_ARCHIVE, row.kind] = EndedRun(
            archive=row.archive or NO_ARCHIVE,
            kind=row.kind,
            finished_at=max(row.finished_at, known.finished_at) if known else row.finished_at,
            finished=known.finished if known else finished.get(row.id),
        )
    return tuple(ended.values())


def _newest_ended(connection: Connection) -> list[Row[Any]]:
    """Of each archive, kind and status."""
    groups = (RunTable.archive_id, RunTable.kind, RunTable.status)
    newest_first = (RunTable.finished_at.desc(), RunTable.id.desc())
    place = func.row_number().over(partition_by=groups, order_by=newest_first).label("place")
    runs = (
        select(RunTable.id, *groups, RunTable.finished_at, place)
        .where(RunTable.status.in_(("finished", "nothing_to_do")))
        .subquery()
    )
    columns = (runs.c.id, runs.c.kind, runs.c.status, runs.c.finished_at, ArchiveTable.name.label("archive"))
    statement = (
        select(*columns).join(ArchiveTable, ArchiveTable.id == runs.c.archive_id, isouter=True).where(runs.c.place == 1)
    )
    return list(connection.execute(statement))
