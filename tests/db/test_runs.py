from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from ledger_factories import DIGEST, MODEL, ROOT, Clock, begin_run, scan, series_row
from sqlalchemy import event, select

from vaeseg.config import RunConfig
from vaeseg.db import runs
from vaeseg.db.archives import ensure_archive
from vaeseg.db.coverage import Scanned, count_coverage
from vaeseg.db.drivers import (
    archive_holder,
    close_lost_runs,
    driver_of,
    hand_over,
    heartbeat,
    is_live,
    is_submitted,
    last_submission,
    take_archive,
    take_up,
)
from vaeseg.db.runs import cancel_run, finish_run, reopen_run, run_task, start_run
from vaeseg.db.session import Database
from vaeseg.db.summaries import recent_runs, run_summary
from vaeseg.db.tables import EventTable, ModelTable
from vaeseg.db.work import plan_work
from vaeseg.errors import ArchiveBusyError, RunNotFoundError, UsageError
from vaeseg.records import FileCount


@pytest.fixture
def archive_id(database: Database) -> int:
    return scan(database, [series_row("1.2.3"), series_row("1.2.4")])


def test_a_run_from_start_to_end(database: Database, archive_id: int, clock: Clock) -> None:
    """Its id sorts by time; its summary gives files, pending work, figures and duration."""
    run_id = begin_run(database, archive_id)
    assert re.fullmatch(r"20261122T013000-[0-9a-f]{6}", run_id)
    plan_work(database, run_id, ["1.2.3", "1.2.4"])
    summary = run_summary(database, run_id)
    assert (summary.status, summary.kind, summary.model, summary.pending) == ("running", "segment", "phantom-v1", 2)
    assert summary.outcomes == {"segmented": 0, "skipped": 0, "failed": 0, "crashed": 0}
    clock.advance(90)
    finish_run(database, run_id, "finished", {"n_slices": 12})
    summary = run_summary(database, run_id)
    assert (summary.status, summary.seconds, summary.counts) == ("finished", 90.0, {"n_slices": 12})
    assert summary.files == FileCount(found=5, in_series=3, refused=2, refused_by_reason={"not_an_image": 2})


def test_files_are_counted_at_the_end(database: Database, archive_id: int) -> None:
    """A run that begins before its scan knows no files until it says so; one that ends within its scan never does."""
    runs = [
        start_run(database, kind="index", archive_id=archive_id, model_digest=None, config_json="{}", config_digest="c")
        for _ in range(2)
    ]
    assert run_summary(database, runs[0]).files is None
    finish_run(
        database, runs[0], "finished", coverage=count_coverage(database, runs[0], Scanned(n_files=10, n_waiting=4))
    )
    assert run_summary(database, runs[0]).files == FileCount(found=10, in_series=6, refused=0, waiting=4)
    finish_run(database, runs[1], "interrupted")
    assert run_summary(database, runs[1]).files is None


def test_a_silent_run_is_lost_until_it_is_heard_again(database: Database, archive_id: int, clock: Clock) -> None:
    """60 s of silence and no more; a heartbeat brings it back."""
    run_id = begin_run(database, archive_id)
    clock.advance(60)
    assert (run_summary(database, run_id).status, is_live(database, run_id)) == ("running", True)
    clock.advance(1)
    assert (run_summary(database, run_id).status, is_live(database, run_id)) == ("lost", False)
    heartbeat(database, run_id)
    assert (run_summary(database, run_id).status, is_live(database, run_id)) == ("running", True)


def test_a_finished_run_is_never_lost(database: Database, archive_id: int, clock: Clock) -> None:
    """However old."""
    run_id = begin_run(database, archive_id)
    finish_run(database, run_id, "failed")
    clock.advance(1e6)
    assert (run_summary(database, run_id).status, is_live(database, run_id)) == ("failed", False)


def test_lost_runs_are_closed_and_live_ones_are_not(database: Database, archive_id: int, clock: Clock) -> None:
    """Only the silent one becomes interrupted, and there is an event for it."""
    silent = begin_run(database, archive_id)
    clock.advance(61)
    live = begin_run(database, archive_id)
    assert close_lost_runs(database) == (silent,)
    assert close_lost_runs(database) == ()
    assert [run.status for run in recent_runs(database)] == ["running", "interrupted"]
    assert is_live(database, live)
    with database.read() as connection:
        events = connection.execute(select(EventTable.kind, EventTable.run_id).order_by(EventTable.id)).all()
    assert [tuple(event) for event in events] == [
        ("run_started", silent),
        ("run_started", live),
        ("run_lost", silent),
    ]


def test_recent_runs_newest_first_and_only_as_many(database: Database, archive_id: int, clock: Clock) -> None:
    """The list that status shows."""
    run_ids = []
    for _ in range(3):
        run_ids.append(begin_run(database, archive_id))
        clock.advance(1)
    assert [run.run_id for run in recent_runs(database, limit=2)] == run_ids[:0:-1]


def test_a_model_is_registered_once(database: Database, archive_id: int) -> None:
    """By digest: the first registration stays."""
    begin_run(database, archive_id)
    begin_run(database, archive_id)
    with database.read() as connection:
        (row,) = connection.execute(select(ModelTable.__table__)).all()
    assert (row.name, row.architecture) == ("phantom-v1", {"kind": "spatial"})


def test_unknown_runs_are_named(database: Database) -> None:
    """In every function that takes an id."""
    for ask in (run_summary, run_task, heartbeat, lambda database, run_id: finish_run(database, run_id, "failed")):
        with pytest.raises(RunNotFoundError, match="no run 2020-x"):
            ask(database, "2020-x")


def test_a_run_can_be_executed_from_its_row(database: Database, archive_id: int) -> None:
    """Its id alone leads to archive, model and configuration."""
    task = run_task(database, begin_run(database, archive_id))
    assert (task.archive_id, task.root, task.model_digest) == (archive_id, ROOT, DIGEST)
    assert RunConfig.from_json(task.config) == RunConfig(model_path=MODEL)


def test_a_run_without_an_archive_has_no_task(database: Database) -> None:
    """An erasure, say, is not resumed but begun again."""
    run_id = start_run(database, kind="erase", archive_id=None, model_digest=None, config_json="{}", config_digest="")
    with pytest.raises(UsageError, match="give the command of its kind, erase, again"):
        run_task(database, run_id)


def test_a_run_that_is_asked_to_stop_hears_of_it_with_its_heartbeat(database: Database, archive_id: int) -> None:
    """Whoever asks learns that there is a driver to hear it."""
    run_id = begin_run(database, archive_id)
    assert not heartbeat(database, run_id)
    assert cancel_run(database, run_id)
    assert heartbeat(database, run_id)
    assert run_summary(database, run_id).status == "running"


def test_a_run_that_was_taken_for_dead_hears_of_it_and_stops(database: Database, archive_id: int, clock: Clock) -> None:
    """It was silent while its database was away; another may have its archive by now."""
    run_id = begin_run(database, archive_id)
    clock.advance(61)
    assert close_lost_runs(database) == (run_id,)
    assert heartbeat(database, run_id)


def test_a_run_without_a_driver_is_closed_and_an_ended_one_is_not_cancelled(
    database: Database, archive_id: int, clock: Clock
) -> None:
    """Nobody would hear; and what has ended stays as it ended."""
    run_id = begin_run(database, archive_id)
    clock.advance(3600)
    assert not cancel_run(database, run_id)
    assert run_summary(database, run_id).status == "interrupted"
    with pytest.raises(UsageError, match="ended already: interrupted"):
        cancel_run(database, run_id)
    with pytest.raises(RunNotFoundError):
        cancel_run(database, "no-such-run")


def test_a_run_that_did_not_finish_can_be_opened_again(database: Database, archive_id: int, clock: Clock) -> None:
    """Interrupted or lost; not one that runs, and not one that is done."""
    run_id = begin_run(database, archive_id)
    with pytest.raises(UsageError, match="is running"):
        reopen_run(database, run_id)
    cancel_run(database, run_id)
    clock.advance(3600)
    reopen_run(database, run_id)
    assert is_live(database, run_id)
    assert not heartbeat(database, run_id)
    finish_run(database, run_id, "failed")
    reopen_run(database, run_id)
    finish_run(database, run_id, "finished")
    with pytest.raises(UsageError, match="has finished"):
        reopen_run(database, run_id)
    with pytest.raises(RunNotFoundError):
        reopen_run(database, "no-such-run")


def at_once(database: Database, first: Callable[[], object], second: Callable[[], object]) -> list[object]:
    """What each of two calls returns or raises, the second of which begins when the first is about to write to `runs`;
    each takes its time to write."""
    is_about_to_write = threading.Event()

    def slowly(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("UPDATE runs"):
            is_about_to_write.set()
            time.sleep(0.3)

    def outcome(call: Callable[[], object]) -> object:
        try:
            return call()
        except UsageError as error:
            return error

    event.listen(database.engine, "before_cursor_execute", slowly)
    with ThreadPoolExecutor() as pool:
        outcomes = [pool.submit(outcome, first)]
        assert is_about_to_write.wait(60)
        outcomes.append(pool.submit(outcome, second))
        return [future.result() for future in outcomes]


def test_of_two_who_resume_a_run_at_once_one_is_refused(database: Database, archive_id: int) -> None:
    """Both saw that it had ended."""
    run_id = begin_run(database, archive_id)
    finish_run(database, run_id, "interrupted")
    outcomes = at_once(database, *[lambda: reopen_run(database, run_id)] * 2)
    assert [str(outcome) for outcome in outcomes] == [
        "None",
        f"run {run_id} is running: 'vaeseg-batch cancel {run_id}' stops it",
    ]


def test_a_run_that_is_resumed_at_the_moment_is_not_closed_as_lost(
    database: Database, archive_id: int, clock: Clock
) -> None:
    """By another who saw it lost."""
    run_id = begin_run(database, archive_id)
    clock.advance(61)
    assert at_once(database, lambda: reopen_run(database, run_id), lambda: close_lost_runs(database)) == [None, ()]
    assert is_live(database, run_id)


def test_a_lost_run_that_is_resumed_while_it_is_cancelled_goes_on(
    database: Database, archive_id: int, clock: Clock
) -> None:
    """Cancelling closes it as it was, not under its new driver."""
    run_id = begin_run(database, archive_id)
    clock.advance(61)
    outcomes = at_once(database, lambda: cancel_run(database, run_id), lambda: reopen_run(database, run_id))
    assert outcomes == [False, None]
    assert is_live(database, run_id)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_nobody_waits_for_a_run_that_another_transaction_holds(
    database: Database, archive_id: int, clock: Clock
) -> None:
    """One that counts its files at its end, for minutes: it is not closed, whatever its last sign of life."""
    ending, silent = begin_run(database, archive_id), begin_run(database, archive_id)
    clock.advance(61)
    event.listen(database.engine, "begin", lambda begun: begun.exec_driver_sql("SET LOCAL lock_timeout = '5s'"))
    with database.write() as connection:
        driver_of(connection, ending)
        assert close_lost_runs(database) == (silent,)
    assert run_summary(database, ending).status == "lost"


def test_of_two_jobs_that_take_a_run_up_at_once_one_is_refused(
    database: Database, archive_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray may have started a job twice."""
    run_id = begin_run(database, archive_id)
    hand_over(database, run_id)
    monkeypatch.setattr("vaeseg.db.drivers.this_process", lambda: f"elsewhere; {threading.get_ident()} 7")
    outcomes = at_once(database, *[lambda: take_up(database, run_id)] * 2)
    assert [str(outcome) for outcome in outcomes] == [
        "False",
        f"run {run_id} is running: 'vaeseg-batch cancel {run_id}' stops it",
    ]


def test_what_a_run_is_resumed_with_can_differ(database: Database, archive_id: int) -> None:
    """The fields that are named, and no others."""
    run_id = begin_run(database, archive_id)
    finish_run(database, run_id, "interrupted")
    reopen_run(database, run_id, {"commit_every": 3})
    assert RunConfig.from_json(run_task(database, run_id).config) == RunConfig(model_path=MODEL, commit_every=3)


def test_an_archive_tells_who_holds_it(database: Database, archive_id: int, clock: Clock) -> None:
    """The run that took it, while that one lives."""
    assert archive_holder(database, archive_id) is None
    run_id = begin_run(database, archive_id)
    take_archive(database, archive_id, run_id)
    assert archive_holder(database, archive_id) == run_id
    clock.advance(61)
    assert archive_holder(database, archive_id) is None


def test_a_run_whose_process_is_gone_is_lost_at_once(
    database: Database, archive_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the same machine nobody need wait for a minute of silence; elsewhere nothing is known."""
    child = subprocess.run(
        [sys.executable, "-c", "from vaeseg.process import this_process; print(this_process())"],
        capture_output=True,
        text=True,
        check=True,
    )
    dead = child.stdout.strip()
    monkeypatch.setattr(runs, "this_process", lambda: f"elsewhere {dead}")
    elsewhere = begin_run(database, archive_id)
    monkeypatch.setattr(runs, "this_process", lambda: dead)
    gone = begin_run(database, archive_id)
    monkeypatch.undo()
    alive = begin_run(database, archive_id)
    assert [is_live(database, run_id) for run_id in (gone, elsewhere, alive)] == [False, True, True]
    assert run_summary(database, gone).status == "lost"
    assert close_lost_runs(database) == (gone,)


def test_an_archive_is_worked_on_by_one_run_at_a_time(database: Database, archive_id: int, clock: Clock) -> None:
    """The second is told whom to wait for; one that ended or died is no hindrance, and another archive is free."""
    first, second = begin_run(database, archive_id), begin_run(database, archive_id)
    take_archive(database, archive_id, first)
    take_archive(database, archive_id, first)
    with pytest.raises(ArchiveBusyError, match=first):
        take_archive(database, archive_id, second)
    take_archive(database, ensure_archive(database, "/other"), second)
    finish_run(database, first, "failed")
    take_archive(database, archive_id, second)
    clock.advance(3600)
    third = begin_run(database, archive_id)
    take_archive(database, archive_id, third)


def test_a_submitted_run_has_longer_to_be_heard_of(database: Database, archive_id: int, clock: Clock) -> None:
    """Its cluster may have to start a node first; Ray gives up after 15 minutes."""
    run_id = begin_run(database, archive_id)
    assert hand_over(database, run_id) == f"vaeseg-{run_id}-a1"
    clock.advance(15 * 60)
    assert (run_summary(database, run_id).status, is_submitted(database, run_id)) == ("submitted", True)
    assert close_lost_runs(database) == ()
    clock.advance(61)
    assert (run_summary(database, run_id).status, is_live(database, run_id)) == ("lost", False)


def test_a_submission_id_is_never_used_twice(database: Database, archive_id: int) -> None:
    """Ray refuses it: each attempt has a number. Where a run was never a job, there is none."""
    other = begin_run(database, archive_id)
    finish_run(database, other, "failed")
    reopen_run(database, other)
    run_id = begin_run(database, archive_id)
    assert last_submission(database, run_id) is None
    finish_run(database, run_id, "interrupted")
    reopen_run(database, run_id, {"jobs_address": "http://head:8265"})
    assert hand_over(database, run_id) == f"vaeseg-{run_id}-a2"
    assert last_submission(database, run_id) == ("http://head:8265", f"vaeseg-{run_id}-a2")


def test_a_run_has_one_driver(
    database: Database, archive_id: int, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that comes back after another took the run up is told to stop, and gives no sign of life in its name."""
    run_id = begin_run(database, archive_id)
    clock.advance(61)
    monkeypatch.setattr("vaeseg.db.drivers.this_process", lambda: "elsewhere; 7 7")
    assert not take_up(database, run_id)
    clock.advance(5)
    assert not heartbeat(database, run_id)
    monkeypatch.undo()
    clock.advance(5)
    assert heartbeat(database, run_id)
    assert run_summary(database, run_id).seconds == 66


def test_a_driver_that_lives_is_not_displaced(
    database: Database, archive_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that comes late, after its run was gone on with elsewhere, does not take it away."""
    run_id = begin_run(database, archive_id)
    monkeypatch.setattr("vaeseg.db.drivers.this_process", lambda: "elsewhere; 7 7")
    with pytest.raises(UsageError, match=f"run {run_id} is running"):
        take_up(database, run_id)
    monkeypatch.undo()
    assert not heartbeat(database, run_id)


def test_a_driver_that_was_displaced_does_not_end_the_run(
    database: Database, archive_id: int, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on under the driver that took it up; and whoever gave a run to a cluster may end it until it is begun."""
    run_id = begin_run(database, archive_id)
    clock.advance(61)
    monkeypatch.setattr("vaeseg.db.drivers.this_process", lambda: "elsewhere; 7 7")
    take_up(database, run_id)
    monkeypatch.undo()
    finish_run(database, run_id, "interrupted", only_if_driven_here=True)
    assert run_summary(database, run_id).status == "running"
    other = begin_run(database, archive_id)
    hand_over(database, other)
    finish_run(database, other, "failed", only_if_driven_here=True)
    assert run_summary(database, other).status == "failed"


def test_a_job_that_comes_too_late_stops_at_once(database: Database, archive_id: int) -> None:
    """It was cancelled while it waited for its cluster."""
    run_id = begin_run(database, archive_id)
    hand_over(database, run_id)
    finish_run(database, run_id, "interrupted")
    assert take_up(database, run_id)
    assert run_summary(database, run_id).status == "interrupted"
