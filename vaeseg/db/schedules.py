"""Schedules: scans that a scheduler starts by itself, and which of their planned times were handled."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, insert, select, update

from vaeseg.db.archives import Archive
from vaeseg.db.drivers import SUBMITTED_BY
from vaeseg.db.events import account, add_event
from vaeseg.db.session import Database
from vaeseg.db.tables import ArchiveTable, RunTable, ScheduleTable
from vaeseg.errors import UsageError
from vaeseg.timetable import Timetable

BEFORE = timedelta(microseconds=1)
"""The resolution of a moment in either database."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """One schedule."""

    id: int
    name: str
    archive_id: int
    archive: str
    """Name."""
    is_archive_removed: bool
    """Then nothing is started, until the archive is added again."""
    cron: str
    timezone: str
    window: str | None
    options: Mapping[str, Any]
    """Other options of `scan` by their names: text, True for a flag, or a list where one may be given several times."""
    created_at: datetime
    handled_until: datetime
    last_run_id: str | None

    @cached_property
    def timetable(self) -> Timetable:
        """When it is due.

        Raises:
            UsageError: this machine does not know its time zone.
        """
        return Timetable(cron=self.cron, timezone=self.timezone, window=self.window)

    @property
    def arguments(self) -> list[str]:
        """What `scan` is called with: its archive and its options."""
        return [self.archive, *scan_arguments(self.options)]


def scan_arguments(options: Mapping[str, Any]) -> list[str]:
    """Options as a command line has them; see `Schedule.options`."""
    given = [(name, value) for name, values in options.items() for value in _each(values)]
    return [name if value is True else f"{name}={value}" for name, value in given]


def _each(values: Any) -> list[Any]:
    return values if isinstance(values, list) else [values]


def add_schedule(
    database: Database, name: str, archive: Archive, timetable: Timetable, options: Mapping[str, Any]
) -> Schedule:
    """Add a schedule; planned times before now do not count as missed.

    Args:
        database: where.
        name: letters, digits, dot, dash and underscore.
        archive: what is scanned.
        timetable: when.
        options: see `Schedule.options`.

    Raises:
        UsageError: the name is taken, or is none.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name of a schedule: letters, digits, dot, dash and underscore only")
    now = database.now()
    values = {
        "name": name,
        "archive_id": archive.id,
        "cron": timetable.cron,
        "timezone": timetable.timezone,
        "window": timetable.window,
        "options": dict(options),
        "created_at": now,
        "handled_until": now,
    }
    with database.write() as connection:
        if connection.scalar(select(ScheduleTable.id).where(ScheduleTable.name == name)) is not None:
            raise UsageError(f"there is a schedule {name}: choose another name, or remove that one first")
        connection.execute(insert(ScheduleTable).values(values))
        add_event(connection, database, "schedule_added", None, {"schedule": name}, actor=account())
    return schedule_named(database, name)


def remove_schedule(database: Database, name: str) -> None:
    """Forget a schedule; a scan of it that runs goes on, and its runs and findings stay.

    Raises:
        UsageError: there is none of that name.
    """
    with database.write() as connection:
        if connection.execute(delete(ScheduleTable).where(ScheduleTable.name == name)).rowcount == 0:
            raise _not_found(name)
        add_event(connection, database, "schedule_removed", None, {"schedule": name}, actor=account())


def list_schedules(database: Database) -> list[Schedule]:
    """Every schedule, by name."""
    with database.read() as connection:
        return schedules_in(connection)


def schedules_in(connection: Connection) -> list[Schedule]:
    """Every schedule, by name, within a transaction."""
    return [_schedule(row) for row in connection.execute(_schedules().order_by(ScheduleTable.name))]


def schedule_named(database: Database, name: str) -> Schedule:
    """One schedule.

    Raises:
        UsageError: there is none of that name.
    """
    with database.read() as connection:
        row = connection.execute(_schedules().where(ScheduleTable.name == name)).one_or_none()
    if row is None:
        raise _not_found(name)
    return _schedule(row)


def claim_slot(database: Database, schedule: Schedule, slot: datetime) -> bool:
    """Take a planned time, so that nobody else starts it; False where somebody did since the schedule was read."""
    return _moved(database, schedule.id, schedule.handled_until, slot)


def release_slot(database: Database, schedule_id: int, slot: datetime) -> bool:
    """Give a planned time back that came to nothing: it is due again. False where a later one was taken since."""
    return _moved(database, schedule_id, slot, slot - BEFORE)


def record_run(database: Database, schedule_id: int, driver: str) -> str | None:
    """Note the run that a process has started as the last of a schedule.

    Args:
        database: where.
        schedule_id: which.
        driver: name of the process (`process.process_name`); empty where it is not known.

    Returns:
        The run's id; None where it has started none, or none yet.
    """
    names = (driver, SUBMITTED_BY + driver)
    of_driver = select(RunTable.id).where(RunTable.driver.in_(names)).order_by(RunTable.id.desc()).limit(1)
    with database.write() as connection:
        run_id = connection.scalar(of_driver) if driver else None
        if run_id is not None:
            which = update(ScheduleTable).where(ScheduleTable.id == schedule_id)
            connection.execute(which.values(last_run_id=run_id))
    return run_id


def _moved(database: Database, schedule_id: int, expected: datetime, moment: datetime) -> bool:
    """Compare and set, in one statement."""
    as_expected = (ScheduleTable.id == schedule_id) & (ScheduleTable.handled_until == expected)
    with database.write() as connection:
        moved = connection.execute(update(ScheduleTable).where(as_expected).values(handled_until=moment))
        return moved.rowcount == 1


def _schedules() -> Select[Any]:
    return select(
        ScheduleTable.__table__, ArchiveTable.name.label("archive"), ArchiveTable.removed_at.label("removed_at")
    ).join(ArchiveTable, ArchiveTable.id == ScheduleTable.archive_id)


def _schedule(row: Row[Any]) -> Schedule:
    values = dict(row._mapping)
    return Schedule(is_archive_removed=values.pop("removed_at") is not None, **values)


def _not_found(name: str) -> UsageError:
    return UsageError(f"there is no schedule {name}: 'vaeseg-batch schedule list' shows those there are")
