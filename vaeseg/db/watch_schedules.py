"""When each schedule was due, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, select

from vaeseg.db.schedules import Schedule, schedules_in
from vaeseg.db.summaries import shown_status
from vaeseg.db.tables import RunTable
from vaeseg.errors import UsageError

LOOKED_AT = 50
"""Runs that succeeded, newest first, among which one that was no retry is looked for."""


@dataclass(frozen=True, kw_only=True)
class ScheduleState:
    """A schedule at some moment; None where there is no such thing."""

    schedule: str
    archive: str
    due_at: datetime | None
    """The latest planned time that lies in the past."""
    window_ends_at: datetime | None
    """End of the window that `due_at` lies in, or waits for."""
    started_at: datetime | None
    """Of its last run."""
    succeeded_at: datetime | None
    """End of its newest run that finished or had nothing to do."""
    is_running: bool
    """Whether its last run is running or submitted."""


def schedule_states(connection: Connection, now: datetime) -> tuple[ScheduleState, ...]:
    """Every schedule of an archive that was not removed, by name."""
    schedules = [schedule for schedule in schedules_in(connection) if not schedule.is_archive_removed]
    return tuple(_state(connection, schedule, now) for schedule in schedules)


def _state(connection: Connection, schedule: Schedule, now: datetime) -> ScheduleState:
    of_run = select(RunTable.__table__).where(RunTable.id == schedule.last_run_id)
    last = connection.execute(of_run).one_or_none() if schedule.last_run_id else None
    due_at, window_ends_at = _planned(schedule, now)
    return ScheduleState(
        schedule=schedule.name,
        archive=schedule.archive,
        due_at=due_at,
        window_ends_at=window_ends_at,
        started_at=last.started_at if last else None,
        succeeded_at=_succeeded_at(connection, last) if last else None,
        is_running=last is not None and shown_status(last, now) in ("running", "submitted"),
    )


def _planned(schedule: Schedule, now: datetime) -> tuple[datetime | None, datetime | None]:
    """The latest planned time and the end of its window; none on a machine that does not know the time zone."""
    try:
        due_at = schedule.timetable.due(schedule.created_at, now)
        return due_at, due_at and schedule.timetable.window_end(due_at)
    except UsageError:
        return None, None


def _succeeded_at(connection: Connection, last: Row[Any]) -> datetime | None:
    """End of the newest success among runs that do what the last one did.

    The ledger keeps only the last run of a schedule. What ran before it is known by archive, kind, model and
    configuration; a scan by hand with the same counts too, and a retry, which looks for nothing new, does not.
    """
    same = (RunTable.archive_id, RunTable.kind, RunTable.model_digest, RunTable.config_digest)
    statement = (
        select(RunTable.finished_at, RunTable.config)
        .where(*(column == getattr(last, column.key) for column in same))
        .where(RunTable.status.in_(("finished", "nothing_to_do")))
        .order_by(RunTable.finished_at.desc())
        .limit(LOOKED_AT)
    )
    return next((row.finished_at for row in connection.execute(statement) if not row.config.get("retry_of")), None)
