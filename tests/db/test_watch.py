"""What the exporter shows of a ledger, counted by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from ledger_factories import (
    ROOT,
    Clock,
    begin_run,
    counted_statements,
    failed,
    scan,
    segmented,
    series_row,
    skipped,
)
from sqlalchemy import event, update

from vaeseg.canonical import digest
from vaeseg.db.archives import Archive, add_archive, remove_archive
from vaeseg.db.drivers import hand_over, heartbeat, take_archive
from vaeseg.db.exclusions import record_decisions, standings
from vaeseg.db.runs import finish_run, reopen_run, start_run
from vaeseg.db.schedules import Schedule, add_schedule
from vaeseg.db.session import Database, open_database
from vaeseg.db.summaries import progress_of, run_summary
from vaeseg.db.tables import RunTable, ScheduleTable
from vaeseg.db.watch import Snapshot, take_snapshot
from vaeseg.db.watch_runs import EndedRun, RunInProgress
from vaeseg.db.watch_schedules import ScheduleState
from vaeseg.db.watch_series import SERIES_CATEGORIES, ArchiveSeries
from vaeseg.db.work import WorkItem, plan_work
from vaeseg.distributed.commit import commit_group
from vaeseg.errors import StoreError
from vaeseg.io.store import Store
from vaeseg.records import SeriesOutcome
from vaeseg.rules.parsing import parse_rules
from vaeseg.rules.series_rules import Exclusion
from vaeseg.timetable import Timetable

RULES = {"min_slices": 20}
LONG_DEAD = "no such boot; 1 1"
"""Driver of another machine: it lives as long as its heart beats."""


@pytest.fixture
def ward(database: Database) -> Archive:
    return add_archive(database, "ward", ROOT)


def look(database: Database) -> Snapshot:
    return take_snapshot(database, 10.0)


def series(database: Database) -> ArchiveSeries:
    (only,) = look(database).counts.series
    return only


def crashed(item: WorkItem) -> SeriesOutcome:
    return failed(item, crashed=True)


def commit(database: Database, store: Store, run_id: str, outcomes: dict[str, Callable[..., SeriesOutcome]]) -> None:
    """Have a run plan these series and end each so."""
    items = plan_work(database, run_id, list(outcomes), retry=True).pending
    commit_group(run_id, [(item, outcomes[item.series_key](item)) for item in items], store, database)


def drive_from_elsewhere(database: Database, run_id: str) -> None:
    with database.write() as connection:
        connection.execute(update(RunTable).where(RunTable.id == run_id).values(driver=LONG_DEAD))


def test_every_series_is_in_one_category(database: Database, store: Store, ward: Archive, clock: Clock) -> None:
    """Each category as the newest run sees it, reasons of those that were not measured, and the oldest that waits."""
    scan(database, [series_row("1.2.1"), series_row("1.2.2"), series_row("1.2.3")])
    clock.advance(60)
    rows = [series_row(f"1.2.{n}", study_instance_uid=f"1.{n}") for n in range(4, 9)]
    scan(database, [*rows, series_row("1.2.9", study_instance_uid="1.9", reason="missing_slices")])
    done = {"1.2.1": segmented, "1.2.2": skipped, "1.2.3": failed, "1.2.4": crashed, "1.2.5": failed}
    commit(database, store, begin_run(database, ward.id), done)
    clock.advance(60)
    found = series(database)
    assert found.archive == "ward"
    assert tuple(found.by_category) == SERIES_CATEGORIES
    assert found.by_category == {
        "segmented": 1,
        "left_out_by_rule": 1,
        "refused": 1,
        "failed": 2,
        "crashed": 1,
        "pending": 3,
    }
    assert found.unmeasured == {
        ("refused", "missing_slices"): 1,
        ("failed", "decode_failed"): 2,
        ("crashed", "decoder_crashed"): 1,
    }
    assert found.oldest_pending_at == clock.moment - timedelta(seconds=60)


def test_rules_and_configuration_are_those_of_the_newest_run(
    database: Database, store: Store, ward: Archive, clock: Clock
) -> None:
    """What its rules leave out is left out; what another configuration has done is pending; without a run all is."""
    scan(database, [series_row("1.2.1"), series_row("1.2.2")])
    assert series(database).by_category["pending"] == 2
    run_id = begin_run(database, ward.id)
    commit(database, store, run_id, {"1.2.1": segmented})
    with database.write() as connection:
        connection.execute(update(RunTable).where(RunTable.id == run_id).values(config={"rules": RULES}))
    rules_digest = digest(parse_rules(RULES))
    (one,) = [s for s in standings(database, ward.id, "a" * 64, "c" * 64, rules_digest) if s.series_key == "1.2.2"]
    record_decisions(database, run_id, rules_digest, [one], {"1.2.2": Exclusion(rule="min_slices", detail="3")})
    assert (series(database).by_category["left_out_by_rule"], series(database).by_category["segmented"]) == (1, 1)
    clock.advance(1)
    begin_run(database, ward.id, config_digest="d" * 64)
    assert series(database).by_category["pending"] == 2


def test_rules_of_another_version_leave_nothing_out(database: Database, ward: Archive) -> None:
    """Nobody can tell what they decided: the series are pending, and the snapshot is taken all the same."""
    scan(database, [series_row("1.2.1")])
    run_id = begin_run(database, ward.id)
    with database.write() as connection:
        connection.execute(update(RunTable).where(RunTable.id == run_id).values(config={"rules": {"mood": "good"}}))
    assert series(database).by_category["pending"] == 1


def test_large_findings_are_current_ones_of_series_that_are_there(
    database: Database, store: Store, ward: Archive
) -> None:
    """Above the threshold, not at it; of a series that was done again only what holds."""
    keys = ["1.2.1", "1.2.2", "1.2.3"]
    rows = [series_row(key) for key in keys]
    scan(database, rows)
    volumes = {"1.2.1": 30.0, "1.2.2": 10.0, "1.2.3": 10.5}
    run_id = begin_run(database, ward.id)
    items = plan_work(database, run_id, keys).pending
    done = [(item, segmented(item, volume_ml=volumes[item.series_key])) for item in items]
    commit_group(run_id, done, store, database)
    assert series(database).n_large == 2
    scan(database, [replace(rows[0], fingerprint="0" * 64), *rows[1:]])
    commit(database, store, begin_run(database, ward.id), {"1.2.1": segmented})
    assert series(database).n_large == 1


def test_a_removed_archive_is_gone(database: Database, store: Store, ward: Archive, clock: Clock) -> None:
    """With its series, runs, lease and schedules; another stays, and counts kept from before are not kept then."""
    scan(database, [series_row("1.2.1")])
    other = add_archive(database, "other", "/other")
    add_schedule(database, "nightly", ward, Timetable(cron="0 1 * * *"), {})
    for archive in (ward, other):
        in_progress = begin_run(database, archive.id)
        take_archive(database, archive.id, in_progress)
        finish_run(database, begin_run(database, archive.id), "finished")
    before = look(database)
    assert [found.archive for found in before.counts.series] == ["other", "ward"]
    clock.advance(61)  # one that is lost is no hindrance
    heartbeat(database, in_progress)
    remove_archive(database, "ward")
    after = take_snapshot(database, 10.0, before.counts)
    assert [found.archive for found in after.counts.series] == ["other"]
    assert {archive for archive, _, _ in after.active} == set(after.leases) == {"other"}
    assert {run.archive for run in after.in_progress} == {run.archive for run in after.counts.ended} == {"other"}
    assert after.schedules == ()


def test_runs_that_have_not_ended_are_submitted_running_or_lost(
    database: Database, ward: Archive, clock: Clock
) -> None:
    """Each status is there for every archive; a kind other than segmenting only while it is active."""
    add_archive(database, "empty", "/empty")
    lost, live, waiting = (begin_run(database, ward.id) for _ in range(3))
    training = start_run(
        database, kind="train_vae", archive_id=None, model_digest=None, config_json="{}", config_digest=""
    )
    drive_from_elsewhere(database, lost)
    hand_over(database, waiting)
    clock.advance(61)
    with database.write() as connection:
        beats = update(RunTable).where(RunTable.id.not_in((lost,))).values(heartbeat_at=clock.moment)
        connection.execute(beats)
    statuses = ("submitted", "running", "lost")
    assert look(database).active == {
        **{("empty", "segment", status): 0 for status in statuses},
        **{("ward", "segment", status): 1 for status in statuses},
        **{("", "train_vae", status): int(status == "running") for status in statuses},
    }
    finish_run(database, training, "finished")
    found = look(database)
    assert ("", "train_vae", "running") not in found.active
    assert [run.kind for run in found.counts.ended] == ["train_vae"]
    assert [run.archive for run in found.in_progress] == ["ward"]
    finish_run(database, live, "failed")
    assert look(database).in_progress == ()


def test_the_run_in_progress_has_the_numbers_of_its_bar(
    database: Database, store: Store, ward: Archive, clock: Clock
) -> None:
    """The newest running one; what is left at the rate since the plan: 2 of 4 in 20 seconds leave 20."""
    keys = [f"1.2.{n}" for n in range(4)]
    scan(database, [series_row(key) for key in keys])
    begin_run(database, ward.id)
    clock.advance(1)
    run_id = begin_run(database, ward.id)
    (run,) = look(database).in_progress
    assert (run.progress.series_total, math.isnan(run.eta_seconds)) == (0, True)
    clock.advance(30)
    items = plan_work(database, run_id, keys).pending
    (run,) = look(database).in_progress
    assert (run.progress.series_done, run.progress.series_total, math.isnan(run.eta_seconds)) == (0, 4, True)
    clock.advance(20)
    commit_group(run_id, [(items[0], segmented(items[0])), (items[1], failed(items[1]))], store, database)
    (run,) = look(database).in_progress
    shown = progress_of(run_summary(database, run_id))
    assert run == RunInProgress(archive="ward", kind="segment", progress=shown, eta_seconds=20.0)
    assert (shown.series_done, shown.series_total, shown.failures, shown.slices_done) == (2, 4, 1, 3)


def test_the_rate_is_that_of_this_attempt(database: Database, store: Store, ward: Archive, clock: Clock) -> None:
    """What an attempt before it did, and how long ago, does not count: 1 of 3 in 5 seconds leaves 10; all done, 0."""
    keys = [f"1.2.{n}" for n in range(4)]
    scan(database, [series_row(key) for key in keys])
    run_id = begin_run(database, ward.id)
    first, *_ = plan_work(database, run_id, keys).pending
    commit_group(run_id, [(first, segmented(first))], store, database)
    finish_run(database, run_id, "interrupted")
    clock.advance(86400)
    reopen_run(database, run_id)
    second, *rest = plan_work(database, run_id, keys).pending
    clock.advance(5)
    commit_group(run_id, [(second, segmented(second))], store, database)
    (run,) = look(database).in_progress
    assert (run.progress.series_done, run.eta_seconds) == (2, 10.0)
    commit_group(run_id, [(item, segmented(item)) for item in rest], store, database)
    (run,) = look(database).in_progress
    assert run.eta_seconds == 0.0


def test_the_last_run_of_each_kind(database: Database, store: Store, ward: Archive, clock: Clock) -> None:
    """That finished, with its series; one with nothing to do moves the time alone, one that failed nothing."""
    scan(database, [series_row("1.2.1"), series_row("1.2.2")])
    finished = begin_run(database, ward.id)
    commit(database, store, finished, {"1.2.1": segmented, "1.2.2": failed})
    clock.advance(30)
    finish_run(database, finished, "finished")
    clock.advance(100)
    finish_run(database, begin_run(database, ward.id), "nothing_to_do")
    nothing_at = clock.moment
    clock.advance(100)
    finish_run(database, begin_run(database, ward.id), "failed")
    indexing = start_run(
        database, kind="index", archive_id=ward.id, model_digest=None, config_json="{}", config_digest=""
    )
    finish_run(database, indexing, "nothing_to_do")
    ended = {run.kind: run for run in look(database).counts.ended}
    summary = run_summary(database, finished)
    assert ended["segment"] == EndedRun(archive="ward", kind="segment", finished_at=nothing_at, finished=summary)
    assert (summary.seconds, summary.outcomes["segmented"], summary.outcomes["failed"]) == (30.0, 1, 1)
    assert ended["index"] == EndedRun(archive="ward", kind="index", finished_at=clock.moment, finished=None)


def test_a_lease_is_held_until_its_run_ends(database: Database, ward: Archive, clock: Clock) -> None:
    """Also by a run that is lost, whose last heartbeat tells it."""
    assert look(database).leases == {"ward": None}
    run_id = begin_run(database, ward.id)
    taken_at = clock.moment
    drive_from_elsewhere(database, run_id)
    take_archive(database, ward.id, run_id)
    clock.advance(300)
    assert look(database).leases == {"ward": taken_at}
    finish_run(database, run_id, "interrupted")
    assert look(database).leases == {"ward": None}


NIGHTLY = Timetable(cron="0 2 * * *", timezone="Europe/Berlin", window="19:00-07:00")
"""01:00 UTC in winter, until 06:00 UTC."""


@pytest.fixture
def nightly(database: Database, ward: Archive) -> Schedule:
    return add_schedule(database, "nightly", ward, NIGHTLY, {})


def state(database: Database) -> ScheduleState:
    (only,) = look(database).schedules
    return only


def ran(database: Database, run_id: str) -> None:
    """Note a run as the last of the only schedule."""
    with database.write() as connection:
        connection.execute(update(ScheduleTable).values(last_run_id=run_id))


def test_a_schedule_before_its_first_time(database: Database, nightly: Schedule) -> None:
    """Nothing was due and nothing has run."""
    assert state(database) == ScheduleState(
        schedule="nightly",
        archive="ward",
        due_at=None,
        window_ends_at=None,
        started_at=None,
        succeeded_at=None,
        is_running=False,
    )


def test_a_schedule_and_its_runs(database: Database, ward: Archive, nightly: Schedule, clock: Clock) -> None:
    """Due last night; running, then succeeded, then failed: the success before stays; a retry is none."""
    clock.advance(86400)
    night = datetime(2026, 11, 23, 1, 0, tzinfo=UTC)
    run_id = begin_run(database, ward.id)
    ran(database, run_id)
    found = state(database)
    assert (found.due_at, found.window_ends_at) == (night, night + timedelta(hours=5))
    assert (found.started_at, found.is_running, found.succeeded_at) == (clock.moment, True, None)
    clock.advance(60)
    finish_run(database, run_id, "finished")
    succeeded_at = clock.moment
    assert (state(database).is_running, state(database).succeeded_at) == (False, succeeded_at)
    clock.advance(60)
    failing = begin_run(database, ward.id)
    ran(database, failing)
    finish_run(database, failing, "failed")
    retry = begin_run(database, ward.id)
    with database.write() as connection:
        connection.execute(update(RunTable).where(RunTable.id == retry).values(config={"retry_of": failing}))
    finish_run(database, retry, "finished")
    other = begin_run(database, ward.id, config_digest="d" * 64)
    finish_run(database, other, "finished")
    assert (state(database).started_at, state(database).succeeded_at) == (clock.moment, succeeded_at)


def test_a_lost_run_is_not_running(database: Database, ward: Archive, nightly: Schedule, clock: Clock) -> None:
    """It claims to; a submitted one counts as running."""
    run_id = begin_run(database, ward.id)
    ran(database, run_id)
    hand_over(database, run_id)
    assert state(database).is_running
    drive_from_elsewhere(database, run_id)
    clock.advance(61)
    assert not state(database).is_running


@pytest.mark.parametrize(
    ("window", "hours"), [(None, None), ("19:00-07:00", 18 + 1), ("12:00-18:00", 18 - 12), ("00:00-13:00", 1)]
)
def test_a_time_outside_the_window_has_the_end_of_the_next(
    database: Database, ward: Archive, clock: Clock, window: str | None, hours: int | None
) -> None:
    """Due at 12:00 UTC: it waits for the window that opens at 19:00, is in the others, or there is none."""
    add_schedule(database, "noon", ward, Timetable(cron="0 12 * * *", window=window), {})
    clock.advance(86400)
    found = state(database)
    assert found.due_at == datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
    assert found.window_ends_at == (None if hours is None else found.due_at + timedelta(hours=hours))


def test_a_time_zone_that_is_not_known_here_is_no_end(database: Database, nightly: Schedule, clock: Clock) -> None:
    """The schedule is there, without planned times."""
    with database.write() as connection:
        connection.execute(update(ScheduleTable).values(timezone="Mars/Olympus"))
    clock.advance(86400)
    assert (state(database).due_at, state(database).window_ends_at) == (None, None)


def test_counts_are_kept_where_they_are_given(database: Database, ward: Archive) -> None:
    """The series are not counted again, and that takes fewer statements."""
    scan(database, [series_row("1.2.1")])
    counts = look(database).counts
    scan(database, [series_row("1.2.2")])
    with counted_statements(database) as statements:
        kept = take_snapshot(database, 10.0, counts)
    assert kept.counts is counts
    assert not any("exclusions" in statement for statement in statements)
    assert series(database).by_category["pending"] == 2


def test_a_snapshot_is_of_one_moment(database: Database, store: Store, ward: Archive, clock: Clock) -> None:
    """A series that is committed in the middle of it is pending or done, never neither."""
    scan(database, [series_row("1.2.1"), series_row("1.2.2")])
    run_id = begin_run(database, ward.id)
    items = list(plan_work(database, run_id, ["1.2.1", "1.2.2"]).pending)
    with closing(open_database(database.engine.url.render_as_string(hide_password=False), now=clock)) as driver:

        def commit_meanwhile(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if "work_items.state, count" in statement and len(items) == 2:
                item = items.pop()
                commit_group(run_id, [(item, segmented(item))], store, driver)

        event.listen(database.engine, "before_cursor_execute", commit_meanwhile)
        found = look(database)
        event.remove(database.engine, "before_cursor_execute", commit_meanwhile)
    assert len(items) == 1
    (run,) = found.in_progress
    assert run.progress.series_total == 2
    (counted,) = found.counts.series
    assert counted.by_category["segmented"] == run.progress.series_done


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_file_that_is_gone_is_said_and_not_made_anew(database: Database, store: Store) -> None:
    """An empty database in its place would look like an archive that was emptied."""
    database.close()
    store.database_path.unlink()
    with pytest.raises(StoreError, match="no database at"):
        look(database)
    assert not store.database_path.exists()
