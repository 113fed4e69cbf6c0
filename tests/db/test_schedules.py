"""Schedules in the database, and planned times that are taken once."""

from __future__ import annotations

import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from ledger_factories import ROOT, Clock, begin_run, scan, series_row
from sqlalchemy import select, update

from vaeseg.db.archives import Archive, add_archive, remove_archive
from vaeseg.db.schedules import (
    Schedule,
    add_schedule,
    claim_slot,
    list_schedules,
    record_run,
    release_slot,
    remove_schedule,
    schedule_named,
)
from vaeseg.db.session import Database, open_database
from vaeseg.db.tables import EventTable, RunTable
from vaeseg.errors import UsageError
from vaeseg.timetable import Timetable

SLOT = datetime(2026, 11, 23, 0, 0, tzinfo=UTC)
NIGHTLY = Timetable(cron="0 1 * * *", timezone="Europe/Berlin", window="19:00-07:00")


@pytest.fixture
def ward(database: Database) -> Archive:
    return add_archive(database, "ward", ROOT)


@pytest.fixture
def nightly(database: Database, ward: Archive) -> Schedule:
    return add_schedule(database, "nightly", ward, NIGHTLY, {"--stable-for": "10m", "--retry": True, "--x": ["1", "2"]})


def test_a_schedule_is_kept_as_it_was_added(database: Database, nightly: Schedule, clock: Clock) -> None:
    """Its options are given back as arguments; what was planned before it was added is not missed."""
    assert list_schedules(database) == [nightly] == [schedule_named(database, "nightly")]
    assert nightly.timetable == NIGHTLY
    assert (nightly.arguments[0], sorted(nightly.arguments[1:])) == (
        "ward",
        ["--retry", "--stable-for=10m", "--x=1", "--x=2"],
    )
    assert (nightly.created_at, nightly.handled_until, nightly.last_run_id) == (clock.moment, clock.moment, None)


def test_names_are_unique_and_are_names(database: Database, ward: Archive, nightly: Schedule) -> None:
    """One that is taken, or would break a line of the log, is refused."""
    for name in ("nightly", "", "two words", "-x", "line\nbreak"):
        with pytest.raises(UsageError, match="schedule"):
            add_schedule(database, name, ward, NIGHTLY, {})
    assert list_schedules(database) == [nightly]


def test_a_removed_schedule_is_gone_and_leaves_events(database: Database, nightly: Schedule) -> None:
    """Its name is free again; a second removal is an error."""
    remove_schedule(database, "nightly")
    for ask in (schedule_named, remove_schedule):
        with pytest.raises(UsageError, match="no schedule nightly"):
            ask(database, "nightly")
    with database.read() as connection:
        kinds = connection.scalars(select(EventTable.kind).order_by(EventTable.id)).all()
    assert kinds == ["archive_added", "schedule_added", "schedule_removed"]


def test_a_schedule_outlives_its_archive(database: Database, nightly: Schedule) -> None:
    """It says so, and is as before when the archive is added again."""
    remove_archive(database, "ward")
    assert schedule_named(database, "nightly").is_archive_removed
    add_archive(database, "ward", ROOT)
    assert schedule_named(database, "nightly") == nightly


def test_a_planned_time_is_taken_once(database: Database, nightly: Schedule) -> None:
    """By whoever read the schedule before; given back, it is due again, unless a later one was taken since."""
    assert claim_slot(database, nightly, SLOT)
    assert not claim_slot(database, nightly, SLOT)
    taken = schedule_named(database, "nightly")
    assert taken.timetable.due(taken.handled_until, SLOT) is None
    assert release_slot(database, nightly.id, SLOT)
    released = schedule_named(database, "nightly")
    assert released.timetable.due(released.handled_until, SLOT + timedelta(hours=1)) is not None
    assert claim_slot(database, released, SLOT + timedelta(days=1))
    assert not release_slot(database, nightly.id, SLOT)


def test_of_two_schedulers_that_race_one_takes_it(database_url: str, database: Database, nightly: Schedule) -> None:
    """Two connections at the same moment, over and over: always exactly one."""
    with closing(open_database(database_url)) as other:
        for n in range(20):
            slot, taken = SLOT + timedelta(days=n), []
            schedule = schedule_named(database, "nightly")
            barrier = threading.Barrier(2)

            def take(
                connected: Database,
                barrier: threading.Barrier = barrier,
                schedule: Schedule = schedule,
                slot: datetime = slot,
                taken: list[bool] = taken,
            ) -> None:
                barrier.wait()
                taken.append(claim_slot(connected, schedule, slot))

            threads = [threading.Thread(target=take, args=(connected,)) for connected in (database, other)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(taken) == [False, True]


def test_the_run_of_a_process_becomes_the_last_of_its_schedule(database: Database, nightly: Schedule) -> None:
    """Its newest; a process without a run, or without a name, changes nothing."""
    archive_id = scan(database, [series_row("1.2.3")])
    first, second = begin_run(database, archive_id), begin_run(database, archive_id)
    with database.write() as connection:
        connection.execute(update(RunTable).values(driver="boot; 1 2"))
    assert record_run(database, nightly.id, "boot; 1 3") is None
    assert record_run(database, nightly.id, "") is None
    assert schedule_named(database, "nightly").last_run_id is None
    run_id = record_run(database, nightly.id, "boot; 1 2")
    assert run_id == max(first, second) == schedule_named(database, "nightly").last_run_id
