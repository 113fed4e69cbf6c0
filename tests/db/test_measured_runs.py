"""What the database says for an estimate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from estimated import PACE
from ledger_factories import MODEL, Clock, begin_run, failed, scan, segmented, series_row
from sqlalchemy import update

from vaeseg.db.archives import add_archive, list_archives
from vaeseg.db.rates import archive_workload, measured_runs
from vaeseg.db.runs import finish_run
from vaeseg.db.session import Database
from vaeseg.db.tables import FindingTable
from vaeseg.db.work import plan_work
from vaeseg.distributed.commit import commit_group
from vaeseg.errors import UsageError
from vaeseg.io.store import Store
from vaeseg.records import Reason

ROWS = [series_row(f"1.2.{n}", n_slices=10 * n) for n in (1, 2, 3)]


def run(database: Database, store: Store, keys: list[str], pace: dict[str, Any] | None, **of_run: Any) -> str:
    """Segments these series, and ends with that pace."""
    run_id = begin_run(database, scan(database, ROWS), **of_run)
    items = plan_work(database, run_id, keys).pending
    commit_group(run_id, [(item, segmented(item)) for item in items], store, database)
    finish_run(database, run_id, "finished", {"pace": pace})
    return run_id


def the_archive(database: Database) -> str:
    return list_archives(database)[0].name


def test_a_run_brings_its_pace_and_its_series(database: Database, store: Store) -> None:
    """Two series of three slices, half a second to read, a quarter to segment, an eighth to measure."""
    run_id = run(database, store, ["1.2.1", "1.2.2"], PACE | {"n_segmented": 2, "later": "unknown"})
    (measured,) = measured_runs(database, MODEL)
    assert (measured.run_id, measured.device, measured.n_cores, measured.busy_seconds) == (run_id, "cpu", 2, 30.0)
    assert measured.n_slices.tolist() == [3.0, 3.0]
    assert {stage: seconds.tolist() for stage, seconds in measured.stage_seconds.items()} == {
        "read": [0.5, 0.5],
        "segment": [0.25, 0.25],
        "measure": [0.125, 0.125],
    }


def test_series_of_a_run_come_in_the_order_of_their_findings(database: Database, store: Store) -> None:
    """Also where a row was written anew, which PostgreSQL then puts last: a fit takes the first of many."""
    run_id = begin_run(database, scan(database, ROWS))
    items = plan_work(database, run_id, ["1.2.1", "1.2.2", "1.2.3"]).pending
    outcomes = [(item, replace(segmented(item), n_slices=item.n_slices or 0)) for item in items]
    commit_group(run_id, outcomes, store, database)
    finish_run(database, run_id, "finished", {"pace": PACE | {"n_segmented": 3}})
    with database.write() as connection:
        first = FindingTable.series_instance_uid == "1.2.1"
        connection.execute(update(FindingTable).where(first).values(subject_key="6" * 16))
    (measured,) = measured_runs(database, MODEL)
    assert measured.n_slices.tolist() == [10.0, 20.0, 30.0]


@pytest.mark.parametrize(
    "pace",
    [
        pytest.param(None, id="before paces were kept"),
        pytest.param(PACE | {"n_segmented": 1}, id="resumed: another attempt has the other series"),
    ],
)
def test_a_run_that_does_not_say_enough_is_left_out(
    database: Database, store: Store, pace: dict[str, Any] | None
) -> None:
    """Its findings stay, and no rate is made of them."""
    run(database, store, ["1.2.1", "1.2.2"], pace)
    assert measured_runs(database, MODEL) == []


def test_runs_of_the_newest_model_come_newest_first(database: Database, store: Store, clock: Clock) -> None:
    """Those of an older model by the same name, of another model and those that are under way do not count."""
    one = PACE | {"n_segmented": 1}
    run(database, store, ["1.2.1"], one)
    clock.advance(60)
    run(database, store, ["1.2.1"], one, model="other", digest="c" * 64)
    newer = {"digest": "b" * 64}
    older_run = run(database, store, ["1.2.1"], one, **newer)
    clock.advance(60)
    newer_run = run(database, store, ["1.2.2"], one, **newer)
    begin_run(database, scan(database, ROWS), **newer)
    assert [found.run_id for found in measured_runs(database, MODEL)] == [newer_run, older_run]
    assert measured_runs(database, "no-such-model") == []


def test_an_archive_that_nobody_segmented_is_all_to_do(database: Database) -> None:
    """Three series of 10, 20 and 30 slices; their files are in the index and are not read again."""
    scan(database, [*ROWS, series_row("1.2.9", reason="missing_slices", n_slices=None)])
    work = archive_workload(database, the_archive(database), MODEL)
    assert (work.n_series, work.n_slices, work.n_new_files) == (3, 60, 0)


def test_what_is_done_or_left_out_is_not_to_do(database: Database, store: Store) -> None:
    """The first is segmented, the second failed and waits to be asked for; a model that never ran has all to do."""
    run_id = begin_run(database, scan(database, ROWS))
    done, bad = plan_work(database, run_id, ["1.2.1", "1.2.2"]).pending
    commit_group(run_id, [(done, segmented(done)), (bad, failed(bad))], store, database)
    finish_run(database, run_id, "finished")
    name = the_archive(database)
    work = archive_workload(database, name, MODEL)
    assert (work.n_series, work.n_slices) == (1, 30)
    assert archive_workload(database, name, MODEL, everything=True).n_slices == 60
    assert archive_workload(database, name, "never-ran").n_slices == 60


def test_what_the_next_run_tries_again_is_to_do(database: Database, store: Store) -> None:
    """A file that could not be read may be readable tomorrow: the estimate counts what a run would plan."""
    run_id = begin_run(database, scan(database, ROWS))
    (unread,) = plan_work(database, run_id, ["1.2.2"]).pending
    outcome = replace(failed(unread), reason=Reason.UNREADABLE_FILE)
    commit_group(run_id, [(unread, outcome)], store, database)
    finish_run(database, run_id, "finished")
    work = archive_workload(database, the_archive(database), MODEL)
    next_one = begin_run(database, scan(database, ROWS))
    assert work.n_series == len(plan_work(database, next_one, [row.series_key for row in ROWS]).pending) == 3


def test_an_archive_that_was_never_scanned_tells_nothing(database: Database) -> None:
    """0 series would be a night of no time; a scan that found nothing that it could read is one."""
    archive_id = add_archive(database, "ward", "/ward").id
    scan(database, ROWS)
    for everything in (False, True):
        with pytest.raises(UsageError, match="was never scanned: 'vaeseg-batch scan ward --index-only'"):
            archive_workload(database, "ward", MODEL, everything=everything)
    begin_run(database, archive_id)
    assert archive_workload(database, "ward", MODEL).n_series == 0


def test_there_is_no_such_archive(database: Database) -> None:
    """The message says how to find those there are."""
    with pytest.raises(UsageError, match="there is no archive ward"):
        archive_workload(database, "ward", MODEL)
