"""What the exporter shows of a ledger: one snapshot of everything, taken in one transaction that only reads."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select

from vaeseg.db.session import Database, check_file
from vaeseg.db.tables import ArchiveTable, RunTable
from vaeseg.db.watch_runs import EndedRun, RunInProgress, active_runs, ended_runs, runs_in_progress
from vaeseg.db.watch_schedules import ScheduleState, schedule_states
from vaeseg.db.watch_series import ArchiveSeries, archive_series


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What takes longer the more series there are."""

    taken_at: datetime
    seconds: float
    """That it took."""
    archives: tuple[str, ...]
    """Names of those that were there."""
    series: tuple[ArchiveSeries, ...]
    ended: tuple[EndedRun, ...]


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What is going on, and how many series are where."""

    taken_at: datetime
    seconds: float
    """That it took, without `counts`."""
    active: Mapping[tuple[str, str, str], int]
    """Archive, kind and status to the number of runs that have not ended."""
    in_progress: tuple[RunInProgress, ...]
    leases: Mapping[str, datetime | None]
    """Archive to the last heartbeat of the run that has it; None where it is free."""
    schedules: tuple[ScheduleState, ...]
    counts: Counts
    """Perhaps of an earlier snapshot."""


def take_snapshot(database: Database, volume_threshold_ml: float, counts: Counts | None = None) -> Snapshot:
    """Look at everything, of archives that were not removed.

    Args:
        database: where.
        volume_threshold_ml: findings above it are counted.
        counts: of an earlier snapshot, kept instead of counting again; not where archives came or went since.

    Raises:
        StoreError: the database fails, or is not there.
    """
    check_file(database.engine.url, create=False)
    with database.read() as connection:
        _freeze(connection)
        now, started = database.now(), time.perf_counter()
        leases = _leases(connection)
        names = tuple(leases)
        active, in_progress = active_runs(connection, names, now), runs_in_progress(connection, names, now)
        schedules = schedule_states(connection, now)
        seconds = time.perf_counter() - started
        if counts is None or counts.archives != names:
            counts = _counts(connection, names, volume_threshold_ml, now)
    return Snapshot(
        taken_at=now,
        seconds=seconds,
        active=active,
        in_progress=in_progress,
        leases=leases,
        schedules=schedules,
        counts=counts,
    )


def _freeze(connection: Connection) -> None:
    """Have every statement see the same moment, as those of a transaction on SQLite do anyway."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")


def _counts(connection: Connection, names: tuple[str, ...], volume_threshold_ml: float, now: datetime) -> Counts:
    started = time.perf_counter()
    series = archive_series(connection, volume_threshold_ml)
    ended = ended_runs(connection, names, now)
    seconds = time.perf_counter() - started
    return Counts(taken_at=now, seconds=seconds, archives=names, series=series, ended=ended)


def _leases(connection: Connection) -> dict[str, datetime | None]:
    """A run that is lost has its archive until another takes it; its last heartbeat tells."""
    held = (RunTable.id == ArchiveTable.held_by) & (RunTable.status == "running")
    statement = (
        select(ArchiveTable.name, RunTable.heartbeat_at)
        .join(RunTable, held, isouter=True)
        .where(ArchiveTable.removed_at.is_(None))
        .order_by(ArchiveTable.name)
    )
    return {row.name: row.heartbeat_at for row in connection.execute(statement)}
