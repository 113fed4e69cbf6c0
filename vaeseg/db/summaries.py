"""What people ask about runs: each with the outcomes of its series and the files it found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, func, select

from vaeseg.db.drivers import is_lost, run_not_found, waits_for_cluster
from vaeseg.db.session import Database
from vaeseg.db.tables import ArchiveTable, FindingTable, ModelTable, RunTable, WorkItemTable
from vaeseg.records import OUTCOMES, FileCount


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """A run as the ledger knows it."""

    run_id: str
    kind: str
    archive: str | None
    """Name."""
    model: str | None
    """Name."""
    status: str
    """As stored, but for one that claims to run ``lost`` where it has no driver any more (`drivers.is_lost`), and
    ``submitted`` where a cluster has not begun it yet."""
    started_at: datetime
    finished_at: datetime | None
    heartbeat_at: datetime
    outcomes: dict[str, int]
    """Findings of this run by outcome, every outcome present."""
    n_slices: int
    """Of the series that it segmented."""
    pending: int
    """Series that it planned last and has no finding for."""
    files: FileCount | None
    """None until the scan is counted."""
    counts: dict[str, Any]
    """What the driver added at the end."""

    @property
    def seconds(self) -> float:
        """From start to end, or to the last sign of life."""
        return ((self.finished_at or self.heartbeat_at) - self.started_at).total_seconds()


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is: what the database has of it. Given to the callback after each commit."""

    series_done: int
    series_total: int
    slices_done: int
    failures: int


def progress_of(summary: RunSummary) -> Progress:
    """How far a run is, from what the database has of it: the numbers of bar, `status --watch` and exporter."""
    done = sum(summary.outcomes.values())
    return Progress(
        series_done=done,
        series_total=done + summary.pending,
        slices_done=summary.n_slices,
        failures=summary.outcomes["failed"] + summary.outcomes["crashed"],
    )


def run_summary(database: Database, run_id: str) -> RunSummary:
    """One run.

    Raises:
        RunNotFoundError: no such run.
    """
    with database.read() as connection:
        row = connection.execute(_runs().where(RunTable.id == run_id)).one_or_none()
        if row is None:
            raise run_not_found(run_id)
        return _summaries(connection, [row], database.now())[0]


def recent_runs(database: Database, limit: int = 20) -> list[RunSummary]:
    """The latest runs, newest first."""
    with database.read() as connection:
        rows = connection.execute(_runs().order_by(RunTable.started_at.desc(), RunTable.id.desc()).limit(limit)).all()
        return _summaries(connection, rows, database.now())


def summaries_where(connection: Connection, which: ColumnElement[bool], now: datetime) -> list[RunSummary]:
    """The runs of which a condition on `RunTable` is true, newest first, within a transaction."""
    statement = _runs().where(which).order_by(RunTable.started_at.desc(), RunTable.id.desc())
    return _summaries(connection, connection.execute(statement).all(), now)


def _runs() -> Select[Any]:
    return (
        select(RunTable.__table__, ArchiveTable.name.label("archive"), ModelTable.name.label("model"))
        .join(ArchiveTable, ArchiveTable.id == RunTable.archive_id, isouter=True)
        .join(ModelTable, ModelTable.digest == RunTable.model_digest, isouter=True)
    )


def _summaries(connection: Connection, rows: Sequence[Row[Any]], now: datetime) -> list[RunSummary]:
    run_ids = [row.id for row in rows]
    outcomes = _count_by(connection, FindingTable.run_id, FindingTable.outcome, run_ids)
    slices = _slices_by(connection, run_ids)
    states = _count_by(connection, WorkItemTable.run_id, WorkItemTable.state, run_ids)
    return [
        RunSummary(
            run_id=row.id,
            kind=row.kind,
            archive=row.archive,
            model=row.model,
            status=shown_status(row, now),
            started_at=row.started_at,
            finished_at=row.finished_at,
            heartbeat_at=row.heartbeat_at,
            outcomes={outcome: outcomes.get((row.id, outcome), 0) for outcome in OUTCOMES},
            n_slices=slices.get(row.id, 0),
            pending=states.get((row.id, "pending"), 0),
            files=_files(row),
            counts=row.counts,
        )
        for row in rows
    ]


def _count_by(connection: Connection, run_column: Any, column: Any, run_ids: list[str]) -> dict[tuple[str, str], int]:
    counted = connection.execute(
        select(run_column, column, func.count()).where(run_column.in_(run_ids)).group_by(run_column, column)
    )
    return {(run_id, value): count for run_id, value, count in counted}


def _slices_by(connection: Connection, run_ids: list[str]) -> dict[str, int]:
    segmented = FindingTable.run_id.in_(run_ids) & (FindingTable.outcome == "segmented")
    counted = connection.execute(
        select(FindingTable.run_id, func.sum(FindingTable.n_slices)).where(segmented).group_by(FindingTable.run_id)
    )
    return {run_id: int(count or 0) for run_id, count in counted}


def shown_status(row: Any, now: datetime) -> str:
    """`RunSummary.status` of a row with status, heartbeat and driver."""
    if row.status != "running":
        return str(row.status)
    if is_lost(row.heartbeat_at, row.driver, now):
        return "lost"
    return "submitted" if waits_for_cluster(row.driver) else "running"


def _files(row: Any) -> FileCount | None:
    if row.files_found is None:
        return None
    return FileCount(
        found=row.files_found,
        in_series=row.files_in_series,
        refused=row.files_refused,
        waiting=row.files_waiting or 0,
        refused_by_reason=row.files_refused_by_reason or {},
    )
