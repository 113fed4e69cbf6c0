"""The scheduler: starts scans when they are due, each as a process of its own, and sees them to their end.

Nothing here loads Ray or torch: what a scan leaks, crashes or is killed for, the scheduler survives.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from vaeseg.db.drivers import archive_holder, was_closed_as_lost
from vaeseg.db.schedules import Schedule, claim_slot, list_schedules, record_run, release_slot
from vaeseg.db.session import Database
from vaeseg.db.summaries import run_summary
from vaeseg.distributed.lifecycle import POLL_SECONDS, Interruption
from vaeseg.errors import EXIT_INCOMPLETE, EXIT_OK, StoreError, UsageError

LOOK_SECONDS = 5.0
"""Between two looks at the database."""
LONGEST_WAIT_SECONDS = 60.0
"""Between two looks while the database is away: twice as long each time, up to this."""


class ScanProcess(Protocol):
    """A scan that was started."""

    driver: str
    """Name of its process, as its run bears it; empty where the system does not tell."""

    def poll(self) -> int | None:
        """Its exit code (negative: the signal that killed it); None while it runs."""

    def ask_to_stop(self) -> None:
        """Have it finish what is in work and end."""


StartScan = Callable[[Schedule, datetime | None], ScanProcess]
"""Starts a scan of a schedule that begins no series after a moment; OSError where that is impossible."""


@dataclass(kw_only=True)
class _Running:
    """A scan that this scheduler started."""

    schedule: Schedule
    slot: datetime
    process: ScanProcess
    run_id: str | None = None


class Scheduler:
    """What runs, and what is due.

    Args:
        database: where the schedules are.
        start: starts a scan.
        say: told each start and end, a line each, without paths.
        max_scans: run at once, at most; of one archive it is always one.
    """

    def __init__(self, database: Database, start: StartScan, say: Callable[[str], None], max_scans: int = 1) -> None:
        self._database, self._start, self._say, self._max_scans = database, start, say, max_scans
        self._running: list[_Running] = []
        self._said: dict[int, str] = {}
        self._settled: set[str] = set()  # runs that will not be found lost any more, or were dealt with
        self._is_stopping = False

    @property
    def is_idle(self) -> bool:
        """Whether no scan runs."""
        return not self._running

    def look(self) -> None:
        """See what has ended, and start what is due.

        Raises:
            StoreError: the database fails; what was not recorded is recorded by a later look.
        """
        self.see_to_running()
        schedules = list_schedules(self._database)
        for schedule in schedules:
            self._release_lost(schedule)
        for schedule, slot in sorted(self._due(schedules), key=lambda due: due[1]):
            self._begin_if_free(schedule, slot)

    def stop(self) -> None:
        """Start nothing more and ask every scan to stop."""
        self._is_stopping = True
        for running in self._running:
            running.process.ask_to_stop()

    def has_ended(self) -> bool:
        """Whether every scan has ended, recorded or not."""
        return all(running.process.poll() is not None for running in self._running)

    def see_to_running(self) -> None:
        """Note the runs of scans that have begun, and record those that have ended.

        Raises:
            StoreError: the database fails.
        """
        for running in list(self._running):
            exit_code = running.process.poll()
            if running.run_id is None:
                self._note_run(running)
            if exit_code is not None:
                self._end(running, exit_code)

    def _note_run(self, running: _Running) -> None:
        running.run_id = record_run(self._database, running.schedule.id, running.process.driver)
        if running.run_id is not None:
            self._say(f"schedule {running.schedule.name}: run {running.run_id} has started")

    def _end(self, running: _Running, exit_code: int) -> None:
        """Forget a scan; its planned time is due again where it came to nothing for no reason of its own."""
        is_done = exit_code in (EXIT_OK, EXIT_INCOMPLETE)
        is_again_due = not is_done and (self._is_stopping or self._is_held_by_another(running))
        if is_again_due:
            release_slot(self._database, running.schedule.id, running.slot)
        line = f"schedule {running.schedule.name}: {self._what_became_of(running)}, {_shown_code(exit_code)}"
        self._running.remove(running)
        if running.run_id is not None:
            self._settled.add(running.run_id)
        self._say(line + "; its time is due again" * is_again_due)

    def _is_held_by_another(self, running: _Running) -> bool:
        return archive_holder(self._database, running.schedule.archive_id) not in (None, running.run_id)

    def _what_became_of(self, running: _Running) -> str:
        if running.run_id is None:
            return "ended before its run began"
        summary = run_summary(self._database, running.run_id)
        counts = {**summary.outcomes, "pending": summary.pending}
        named = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        return f"run {running.run_id} {summary.status.replace('_', ' ')}" + f" ({named})" * bool(named)

    def _release_lost(self, schedule: Schedule) -> None:
        """A run that died with its scheduler, or with that one's machine, is to be done again.

        Not one that died under this scheduler, which is alive: it might kill every process that tries.
        """
        run_id = schedule.last_run_id
        if run_id is None or run_id in self._settled or self._runs(schedule):
            return
        status = run_summary(self._database, run_id).status
        if status in ("running", "submitted"):
            return
        is_lost = status == "lost" or was_closed_as_lost(self._database, run_id)
        if is_lost and release_slot(self._database, schedule.id, schedule.handled_until):
            self._say(f"schedule {schedule.name}: run {run_id} was lost; its time is due again")
        self._settled.add(run_id)

    def _due(self, schedules: list[Schedule]) -> Iterator[tuple[Schedule, datetime]]:
        now = self._database.now()
        for schedule in schedules:
            if schedule.is_archive_removed:
                continue
            try:
                slot = schedule.timetable.due(schedule.handled_until, now)
                if slot is not None and schedule.timetable.is_open(now):
                    yield schedule, slot
            except UsageError as error:
                self._say_once(schedule, f"cannot be planned here: {error}")

    def _begin_if_free(self, schedule: Schedule, slot: datetime) -> None:
        if self._runs(schedule):
            return
        if hindrance := self._hindrance(schedule):
            self._say_once(schedule, f"is due and waits: {hindrance}")
        elif claim_slot(self._database, schedule, slot):
            self._begin(schedule, slot)

    def _hindrance(self, schedule: Schedule) -> str | None:
        for running in self._running:
            if running.schedule.archive_id == schedule.archive_id:
                return f"archive {schedule.archive} is in use by schedule {running.schedule.name}"
        if len(self._running) >= self._max_scans:
            return f"{len(self._running)} of {self._max_scans} scans are running"
        holder = archive_holder(self._database, schedule.archive_id)
        return holder and f"archive {schedule.archive} is in use by run {holder}"

    def _runs(self, schedule: Schedule) -> bool:
        return any(running.schedule.id == schedule.id for running in self._running)

    def _begin(self, schedule: Schedule, slot: datetime) -> None:
        deadline = schedule.timetable.closes_at(self._database.now())
        try:
            process = self._start(schedule, deadline)
        except OSError as error:
            release_slot(self._database, schedule.id, slot)
            self._say_once(schedule, f"a scan cannot be started: {error.strerror}")
            return
        self._said.pop(schedule.id, None)
        self._running.append(_Running(schedule=schedule, slot=slot, process=process))
        until = f", until {_shown(deadline)}" if deadline else ""
        self._say(f"schedule {schedule.name}: scan of archive {schedule.archive} starts, due {_shown(slot)}{until}")

    def _say_once(self, schedule: Schedule, what: str) -> None:
        if self._said.get(schedule.id) != what:
            self._said[schedule.id] = what
            self._say(f"schedule {schedule.name}: {what}")


def serve(scheduler: Scheduler, interruption: Interruption, say: Callable[[str], None]) -> None:
    """Look again and again until a signal comes, then have every scan stop and wait for its end.

    A database that is away is waited for. A second signal ends the process at once (`lifecycle.interruptible`).

    Args:
        scheduler: the scheduler.
        interruption: set by a signal.
        say: told when it begins, ends, and when the database goes and comes back.
    """
    say("scheduler: started")
    n_failures = 0
    while not interruption.signalled:
        n_failures = _look(scheduler, n_failures, say)
        _sleep(min(LOOK_SECONDS * 2**n_failures, LONGEST_WAIT_SECONDS), interruption)
    say("scheduler: stopping" + ", waits for its scans to end" * (not scheduler.is_idle))
    scheduler.stop()
    while not scheduler.has_ended():
        time.sleep(POLL_SECONDS)
    try:
        scheduler.see_to_running()
    except StoreError as error:
        say(f"scheduler: the end of its scans could not be recorded: {error}")
    say("scheduler: ended")


def _look(scheduler: Scheduler, n_failures: int, say: Callable[[str], None]) -> int:
    """Returns how many looks have failed in a row."""
    try:
        scheduler.look()
    except StoreError as error:
        if n_failures == 0:
            say(f"scheduler: {error}; waits for the database")
        return n_failures + 1
    if n_failures:
        say("scheduler: the database is back")
    return 0


def _sleep(seconds: float, interruption: Interruption) -> None:
    until = time.monotonic() + seconds
    while not interruption.signalled and time.monotonic() < until:
        time.sleep(POLL_SECONDS)


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _shown_code(exit_code: int) -> str:
    return f"exit code {exit_code}" if exit_code >= 0 else f"killed by {signal.Signals(-exit_code).name}"
