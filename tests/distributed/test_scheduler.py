"""What a scheduler starts and when, with a clock that is moved by hand and scans that only pretend."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from datetime import datetime
from typing import Any

import pytest
from ledger_factories import ROOT, Clock, begin_run, scan, series_row
from sqlalchemy import update

from vaeseg.db.archives import add_archive
from vaeseg.db.drivers import SUBMITTED_BY, close_lost_runs, heartbeat, take_archive
from vaeseg.db.runs import finish_run, reopen_run
from vaeseg.db.schedules import Schedule, add_schedule, schedule_named
from vaeseg.db.session import Database
from vaeseg.db.tables import RunTable, ScheduleTable
from vaeseg.distributed import scheduler as scheduler_module
from vaeseg.distributed.lifecycle import Interruption, interruptible
from vaeseg.distributed.scheduler import Scheduler, serve
from vaeseg.errors import StoreError
from vaeseg.timetable import Timetable

HOUR = 3600.0
DAY = 24 * HOUR


class PretendedScan:
    """Runs until it is told otherwise."""

    def __init__(self, schedule: Schedule, deadline: datetime | None, driver: str) -> None:
        self.schedule, self.deadline, self.driver = schedule, deadline, driver
        self.exit_code: int | None = None
        self.was_asked = False

    def poll(self) -> int | None:
        return self.exit_code

    def ask_to_stop(self) -> None:
        self.was_asked = True
        self.exit_code = 1


class Night:
    """A scheduler with everything around it."""

    def __init__(self, database: Database, clock: Clock, max_scans: int = 1) -> None:
        self.database, self.clock = database, clock
        self.started: list[PretendedScan] = []
        self.lines: list[str] = []
        self.cannot_start = False
        self.scheduler = Scheduler(database, self.start, self.lines.append, max_scans)

    def start(self, schedule: Schedule, deadline: datetime | None) -> PretendedScan:
        if self.cannot_start:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        self.started.append(PretendedScan(schedule, deadline, f"boot; {len(self.started)} 0"))
        return self.started[-1]

    def looks_after(self, seconds: float) -> int:
        """How many scans it has started when it looks again after some time."""
        self.clock.advance(seconds)
        self.scheduler.look()
        return len(self.started)

    def begin_run(self, process: PretendedScan) -> str:
        """What the process does: write its run down and take the archive."""
        run_id = begin_run(self.database, process.schedule.archive_id)
        with self.database.write() as connection:
            connection.execute(update(RunTable).where(RunTable.id == run_id).values(driver=process.driver))
        take_archive(self.database, process.schedule.archive_id, run_id)
        return run_id


@pytest.fixture
def night(database: Database, clock: Clock) -> Night:
    """It is 01:30; `ward` is to be scanned at 02:00, until 07:00."""
    scan(database, [series_row("1.2.3")])
    plan(database, "nightly", window="19:00-07:00")
    return Night(database, clock)


def plan(database: Database, name: str, archive: str = "ward", root: str = ROOT, **when: Any) -> Schedule:
    table = Timetable(**{"cron": "0 2 * * *"} | when)
    return add_schedule(database, name, add_archive(database, archive, root), table, {})


def test_a_scan_is_started_when_it_is_due_and_once(night: Night, clock: Clock) -> None:
    """Not before, not again while it runs or after it has ended, and the next night again; it knows when to stop."""
    assert [night.looks_after(seconds) for seconds in (0, 1799, 1, 5)] == [0, 0, 1, 1]
    (process,) = night.started
    assert process.deadline == clock.moment.replace(hour=7, minute=0, second=0)
    run_id = night.begin_run(process)
    night.looks_after(5)
    finish_run(night.database, run_id, "finished")
    process.exit_code = 0
    assert night.looks_after(5) == 1
    assert schedule_named(night.database, "nightly").last_run_id == run_id
    assert night.lines[1:] == [
        f"schedule nightly: run {run_id} has started",
        f"schedule nightly: run {run_id} finished, exit code 0",
    ]
    assert night.looks_after(DAY) == 2


def test_a_scheduler_that_was_away_catches_up_once(night: Night) -> None:
    """Five nights missed, one scan; in the window, which it waits for."""
    assert night.looks_after(5 * DAY + 8 * HOUR) == 0
    assert night.looks_after(10 * HOUR) == 1
    night.started[0].exit_code = 0
    assert [night.looks_after(5), night.looks_after(HOUR)] == [1, 1]


def test_two_schedulers_start_it_once(night: Night, database: Database, clock: Clock) -> None:
    """Whichever is first."""
    other = Night(database, clock)
    assert night.looks_after(HOUR) + other.looks_after(0) == 1
    assert night.looks_after(5) + other.looks_after(5) == 1


def test_an_archive_in_use_is_waited_for(night: Night) -> None:
    """By a scan that somebody started by hand: said once, and tried until that has ended."""
    by_hand = begin_run(night.database, scan(night.database, []))
    take_archive(night.database, scan(night.database, []), by_hand)
    for _ in range(100):
        heartbeat(night.database, by_hand)
        assert night.looks_after(30) == 0
    assert night.lines == [f"schedule nightly: is due and waits: archive ward is in use by run {by_hand}"]
    finish_run(night.database, by_hand, "finished")
    assert night.looks_after(5) == 1


def test_a_holder_that_died_is_replaced_when_its_lease_ends(night: Night) -> None:
    """A minute after its last sign of life, and not before."""
    night.clock.advance(1800)
    by_hand = begin_run(night.database, scan(night.database, []))
    with night.database.write() as connection:
        connection.execute(update(RunTable).values(driver="another machine; 1 2"))
    take_archive(night.database, scan(night.database, []), by_hand)
    assert [night.looks_after(60), night.looks_after(1)] == [0, 1]


def test_a_scan_that_lost_the_race_for_its_archive_is_tried_again(night: Night) -> None:
    """Somebody took it between the look and the scan: the planned time is not lost."""
    assert night.looks_after(HOUR) == 1
    by_hand = begin_run(night.database, scan(night.database, []))
    take_archive(night.database, scan(night.database, []), by_hand)
    night.started[0].exit_code = 1
    assert night.looks_after(5) == 1
    assert night.lines[1].endswith("ended before its run began, exit code 1; its time is due again")
    finish_run(night.database, by_hand, "finished")
    assert night.looks_after(5) == 2


@pytest.mark.parametrize(("exit_code", "shown"), [(1, "exit code 1"), (-signal.SIGKILL, "killed by SIGKILL")])
def test_a_scan_that_failed_waits_for_the_next_night(night: Night, exit_code: int, shown: str) -> None:
    """Killed for its memory or ended by an error: it is not started over and over, and the scheduler goes on."""
    assert night.looks_after(HOUR) == 1
    run_id = night.begin_run(night.started[0])
    night.started[0].exit_code = exit_code
    assert [night.looks_after(seconds) for seconds in (5, 61, HOUR)] == [1, 1, 1]
    assert run_id in night.lines[-1]
    assert night.lines[-1].endswith(shown)
    assert night.looks_after(DAY) == 2


def test_a_run_that_died_with_its_scheduler_is_done_again(night: Night, database: Database, clock: Clock) -> None:
    """By the next scheduler, once its lease has ended; the same night."""
    assert night.looks_after(HOUR) == 1
    lost = night.begin_run(night.started[0])
    night.looks_after(1)
    next_one = Night(database, clock)
    with database.write() as connection:
        connection.execute(update(RunTable).values(driver="machine that is gone; 1 2"))
    assert [next_one.looks_after(30), next_one.looks_after(31), next_one.looks_after(5)] == [0, 0, 1]
    assert next_one.lines[0] == f"schedule nightly: run {lost} was lost; its time is due again"


def test_a_lost_run_that_somebody_closed_is_done_again(night: Night, database: Database, clock: Clock) -> None:
    """Any command that begins a run closes lost ones, before the next scheduler looks."""
    assert night.looks_after(HOUR) == 1
    lost = night.begin_run(night.started[0])
    night.looks_after(1)
    with database.write() as connection:
        connection.execute(update(RunTable).values(driver="machine that is gone; 1 2"))
    clock.advance(61)
    assert close_lost_runs(database) == (lost,)
    next_one = Night(database, clock)
    assert [next_one.looks_after(1), next_one.looks_after(5)] == [0, 1]
    assert next_one.lines[0] == f"schedule nightly: run {lost} was lost; its time is due again"


def test_a_lost_run_that_somebody_resumed_and_stopped_is_left(night: Night, database: Database, clock: Clock) -> None:
    """It is that person's."""
    assert night.looks_after(HOUR) == 1
    run_id = night.begin_run(night.started[0])
    night.looks_after(1)
    clock.advance(61)
    assert close_lost_runs(database) == (run_id,)
    reopen_run(database, run_id)
    finish_run(database, run_id, "interrupted")
    next_one = Night(database, clock)
    assert [next_one.looks_after(1), next_one.looks_after(5)] == [0, 0]


def test_a_run_that_its_cluster_never_began_is_done_again(night: Night, database: Database, clock: Clock) -> None:
    """It waits for its cluster when the next scheduler begins, and is lost a quarter of an hour later."""
    assert night.looks_after(HOUR) == 1
    lost = night.begin_run(night.started[0])
    night.looks_after(1)
    next_one = Night(database, clock)
    with database.write() as connection:
        connection.execute(update(RunTable).values(driver=f"{SUBMITTED_BY}machine that is gone; 1 2"))
    assert [next_one.looks_after(seconds) for seconds in (60, 15 * 60, 5)] == [0, 0, 1]
    assert next_one.lines[0] == f"schedule nightly: run {lost} was lost; its time is due again"


def test_a_lost_run_is_done_again_although_the_database_failed_first(
    night: Night, database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a look could not record, the next one does."""
    assert night.looks_after(HOUR) == 1
    night.begin_run(night.started[0])
    night.looks_after(1)
    next_one = Night(database, clock)
    with database.write() as connection:
        connection.execute(update(RunTable).values(driver="machine that is gone; 1 2"))

    def fail(*_: Any) -> bool:
        raise StoreError("database postgresql://host/name: connection refused")

    with monkeypatch.context() as away:
        away.setattr(scheduler_module, "release_slot", fail)
        with pytest.raises(StoreError):
            next_one.looks_after(61)
    assert [next_one.looks_after(5), next_one.looks_after(5)] == [0, 1]


def test_one_scan_of_an_archive_and_so_many_at_once(night: Night, database: Database, clock: Clock) -> None:
    """Those that wait begin, the longest due first, when there is room."""
    plan(database, "later", "ward", cron="10 2 * * *")
    plan(database, "other", "ward-2", "/other", cron="20 2 * * *")
    assert night.looks_after(HOUR) == 1
    assert {line.split(": ", 2)[-1] for line in night.lines[1:]} == {
        "archive ward is in use by schedule nightly",
        "1 of 1 scans are running",
    }
    night.started[0].exit_code = 0
    assert night.looks_after(5) == 2
    wide = Night(database, clock, max_scans=2)
    assert wide.looks_after(5) == 1
    names = [process.schedule.name for process in (*night.started, *wide.started)]
    assert names == ["nightly", "later", "other"]


def test_a_scheduler_that_stops_leaves_what_it_stopped_for_the_next(
    night: Night, database: Database, clock: Clock
) -> None:
    """Its scans are asked, waited for and recorded; their planned time is due again, and nothing new is started."""
    assert night.looks_after(HOUR) == 1
    run_id = night.begin_run(night.started[0])
    with interruptible() as interruption:
        signal.raise_signal(signal.SIGTERM)
        serve(night.scheduler, interruption, night.lines.append)
    assert night.started[0].was_asked
    assert (night.scheduler.is_idle, schedule_named(database, "nightly").last_run_id) == (True, run_id)
    assert night.lines[-1] == "scheduler: ended"
    finish_run(database, run_id, "interrupted")
    assert Night(database, clock).looks_after(5) == 1


def test_a_scan_that_cannot_be_started_is_tried_again(night: Night) -> None:
    """No memory for a process: said once, and tried until there is."""
    night.cannot_start = True
    assert [night.looks_after(HOUR), night.looks_after(5)] == [0, 0]
    assert night.lines == ["schedule nightly: a scan cannot be started: Cannot allocate memory"]
    night.cannot_start = False
    assert night.looks_after(5) == 1


def test_a_schedule_that_this_machine_cannot_plan_does_not_stop_the_others(night: Night, database: Database) -> None:
    """A time zone of another machine's tables, said once."""
    plan(database, "other", "ward-2", "/other")
    with database.write() as connection:
        unknown = update(ScheduleTable).where(ScheduleTable.name == "nightly").values(timezone="Mars/Olympus")
        connection.execute(unknown)
    assert [night.looks_after(HOUR), night.looks_after(5)] == [1, 1]
    assert [line for line in night.lines if "Mars/Olympus" in line] == night.lines[:1]


class AwayNowAndThen:
    """A scheduler whose database is away for a while; the last look sends the signal to stop."""

    def __init__(self, interruption: Interruption) -> None:
        self.interruption = interruption
        self.looks = iter(["away", "away", "away", "here", "away", "here", "stop"])
        self.is_idle = True

    def look(self) -> None:
        what = next(self.looks)
        if what == "stop":
            self.interruption.set(signal.SIGTERM)
        if what == "away":
            raise StoreError("database postgresql://host/name: connection refused")

    def stop(self) -> None: ...

    def has_ended(self) -> bool:
        return True

    def see_to_running(self) -> None:
        raise StoreError("database postgresql://host/name: connection refused")


def test_a_database_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line when it goes and one when it comes back; longer waits meanwhile; an end without it is an end too."""
    waits: list[float] = []
    monkeypatch.setattr(scheduler_module, "_sleep", lambda seconds, _: waits.append(seconds))
    lines: list[str] = []
    interruption = Interruption("")
    serve(AwayNowAndThen(interruption), interruption, lines.append)  # type: ignore[arg-type]
    assert waits == [10.0, 20.0, 40.0, 5.0, 10.0, 5.0, 5.0]
    assert [line.rpartition("; ")[2] for line in lines[1:5]] == [
        "waits for the database",
        "scheduler: the database is back",
    ] * 2
    assert lines[-1] == "scheduler: ended"


def test_the_scheduler_is_small() -> None:
    """It loads neither Ray nor torch, so that its memory does not matter beside the scans."""
    code = (
        "import sys, vaeseg.distributed.scheduler, vaeseg.distributed.scan_process, vaeseg.cli.scheduler\n"
        "sys.exit(bool({'torch', 'ray', 'pydicom'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
