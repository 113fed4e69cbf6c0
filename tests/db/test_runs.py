from __future__ import annotations

import re

import pytest
from ledger_factories import DIGEST, ROOT, Clock, begin_run, scan, series_row
from sqlalchemy import select

from vaeseg.db.runs import close_lost_runs, finish_run, heartbeat, is_live, run_task, start_run
from vaeseg.db.session import Database
from vaeseg.db.summaries import recent_runs, run_summary
from vaeseg.db.tables import EventTable, ModelTable
from vaeseg.db.work import plan_work
from vaeseg.errors import RunNotFoundError
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


def test_files_can_be_counted_at_the_end(database: Database, archive_id: int) -> None:
    """A run that begins before its scan knows no files until it says so."""
    run_id = start_run(
        database, kind="scan", archive_id=archive_id, model_digest=None, config_json="{}", config_digest="c"
    )
    assert run_summary(database, run_id).files is None
    files = FileCount(found=2, in_series=2, refused=0)
    finish_run(database, run_id, "nothing_to_do", files=files)
    assert run_summary(database, run_id).files == files


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
    assert task.config == {"with_labels": False}
