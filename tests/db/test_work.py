"""Planning: what is done, what is left, and that nothing is planned twice."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ledger_factories import begin_run, counted_statements, failed, scan, segmented, series_row, skipped
from sqlalchemy import func, select

from vaeseg.db.session import Database
from vaeseg.db.tables import EventTable, FindingTable, WorkItemTable
from vaeseg.db.work import PlannedWork, WorkItem, WorkPreview, mask_folder, plan_work, preview_work
from vaeseg.distributed.commit import commit_group
from vaeseg.errors import RunNotFoundError
from vaeseg.io.store import Store
from vaeseg.records import Reason, SeriesOutcome

KEYS = ["1.2.3", "1.2.4", "1.2.5"]


@pytest.fixture
def archive_id(database: Database) -> int:
    return scan(database, [series_row(key) for key in KEYS])


def _keys(items: tuple[WorkItem, ...]) -> list[str]:
    return [item.series_key for item in items]


def _commit(database: Database, store: Store, run_id: str, *outcomes: tuple[WorkItem, SeriesOutcome]) -> None:
    assert commit_group(run_id, outcomes, store, database) == len(outcomes)


def test_new_series_are_planned_in_the_order_given(database: Database, archive_id: int) -> None:
    """Once each, with what a worker and the mask folder need."""
    planned = plan_work(database, begin_run(database, archive_id), ["1.2.5", "1.2.3", "1.2.5"])
    assert (_keys(planned.pending), planned.already_done, planned.left_out) == (["1.2.5", "1.2.3"], (), ())
    first = planned.pending[0]
    assert (first.series_instance_uid, first.study_instance_uid, first.n_slices) == ("1.2.5", "1.2", 3)
    assert (first.fingerprint, first.attempts, first.generation) == ("f" * 64, 1, 1)


def test_done_work_is_never_planned_again(database: Database, store: Store, archive_id: int) -> None:
    """Segmented and skipped are done, in this run and the next, retry or not."""
    run_id = begin_run(database, archive_id)
    one, two, _ = plan_work(database, run_id, KEYS).pending
    _commit(database, store, run_id, (one, segmented(one)), (two, skipped(two)))
    for retry in (False, True):
        planned = plan_work(database, begin_run(database, archive_id), KEYS, retry=retry)
        assert (_keys(planned.pending), planned.already_done) == (["1.2.5"], ("1.2.3", "1.2.4"))


def _current(database: Database) -> list[tuple[str, str, str]]:
    columns = (FindingTable.fingerprint, WorkItemTable.config_digest, FindingTable.outcome)
    statement = select(*columns).join(WorkItemTable, WorkItemTable.id == FindingTable.work_item_id)
    with database.read() as connection:
        return [
            (fingerprint[0], config[0], outcome)
            for fingerprint, config, outcome in connection.execute(
                statement.where(FindingTable.superseded_at.is_(None))
            )
        ]


def _events(database: Database) -> list[int | None]:
    with database.read() as connection:
        return list(connection.scalars(select(EventTable.n_rows).where(EventTable.kind == "findings_current_again")))


def _state(database: Database, fingerprint: str, config: str) -> tuple[str, PlannedWork]:
    """Of the files of one series and of options; the run that meets it, and its plan."""
    archive_id = scan(database, [series_row("1.2.3", fingerprint=fingerprint * 64)])
    run_id = begin_run(database, archive_id, config_digest=config * 64)
    return run_id, plan_work(database, run_id, ["1.2.3"])


@pytest.mark.parametrize("between", [("0", "1"), ("f", "2")], ids=["files", "options"])
def test_what_is_as_it_was_has_the_finding_of_then(
    database: Database, store: Store, archive_id: int, between: tuple[str, str]
) -> None:
    """A header that was corrected wrongly and put right, slices that were away, an option that was tried: nothing is
    done again, and what was found in between is no longer current."""
    for fingerprint, config in (("f", "1"), between):
        run_id, planned = _state(database, fingerprint, config)
        _commit(database, store, run_id, (planned.pending[0], segmented(planned.pending[0])))
        assert _current(database) == [(fingerprint, config, "segmented")]
    for _ in range(2):
        assert _state(database, "f", "1")[1].already_done == ("1.2.3",)
        assert _current(database) == [("f", "1", "segmented")]
        assert _events(database) == [1]


@pytest.mark.parametrize(
    ("between", "current"), [(("0", "1"), ("f", "1", "failed")), (("f", "2"), ("f", "2", "segmented"))]
)
def test_a_failure_is_current_again_but_for_a_measurement_of_the_same_files(
    database: Database, store: Store, archive_id: int, between: tuple[str, str], current: tuple[str, str, str]
) -> None:
    """What was measured of files that are no more there stands for nothing."""
    run_id, planned = _state(database, "f", "1")
    _commit(database, store, run_id, (planned.pending[0], failed(planned.pending[0])))
    run_id, planned = _state(database, *between)
    _commit(database, store, run_id, (planned.pending[0], segmented(planned.pending[0])))
    assert _state(database, "f", "1")[1].left_out == ("1.2.3",)
    assert _current(database) == [current]


def test_of_several_tries_the_last_is_current_again(database: Database, store: Store, archive_id: int) -> None:
    """The first failed; what another model found of the series stays as it is."""
    run_id, planned = _state(database, "f", "1")
    _commit(database, store, run_id, (planned.pending[0], failed(planned.pending[0])))
    run_id = begin_run(database, archive_id, config_digest="1" * 64)
    (again,) = plan_work(database, run_id, ["1.2.3"], retry=True).pending
    _commit(database, store, run_id, (again, segmented(again)))
    run_id, planned = _state(database, "f", "2")
    _commit(database, store, run_id, (planned.pending[0], segmented(planned.pending[0])))
    other = begin_run(database, archive_id, config_digest="3" * 64, model="zeta", digest="b" * 64)
    (item,) = plan_work(database, other, ["1.2.3"]).pending
    _commit(database, store, other, (item, segmented(item)))
    assert _state(database, "f", "1")[1].already_done == ("1.2.3",)
    assert sorted(_current(database)) == [("f", "1", "segmented"), ("f", "3", "segmented")]


def test_failures_wait_until_they_are_asked_for(database: Database, store: Store, archive_id: int) -> None:
    """Failed and crashed alike; a retry counts as another attempt and then the failure is over."""
    run_id = begin_run(database, archive_id)
    one, two, three = plan_work(database, run_id, KEYS).pending
    outcomes = (one, failed(one)), (two, failed(two, crashed=True)), (three, segmented(three))
    _commit(database, store, run_id, *outcomes)
    again = plan_work(database, begin_run(database, archive_id), KEYS)
    assert (again.pending, again.left_out, again.already_done) == ((), ("1.2.3", "1.2.4"), ("1.2.5",))
    run_id = begin_run(database, archive_id)
    retried = plan_work(database, run_id, KEYS, retry=True)
    assert (_keys(retried.pending), retried.left_out) == (["1.2.3", "1.2.4"], ())
    assert [item.attempts for item in retried.pending] == [2, 2]
    _commit(database, store, run_id, *((item, segmented(item)) for item in retried.pending))
    assert plan_work(database, begin_run(database, archive_id), KEYS).already_done == tuple(KEYS)


def test_work_of_a_killed_run_is_planned_again(database: Database, archive_id: int) -> None:
    """Pending items pass to the next run, and are still one row each."""
    plan_work(database, begin_run(database, archive_id), KEYS)
    second = begin_run(database, archive_id)
    planned = plan_work(database, second, KEYS)
    assert (_keys(planned.pending), [item.attempts for item in planned.pending]) == (KEYS, [2, 2, 2])
    with database.read() as connection:
        assert connection.scalars(select(WorkItemTable.run_id)).all() == [second] * 3


def test_the_work_key_has_model_configuration_and_fingerprint(
    database: Database, store: Store, archive_id: int
) -> None:
    """A change in any of the three makes new work of a series that is done."""
    run_id = begin_run(database, archive_id)
    (one,) = plan_work(database, run_id, ["1.2.3"]).pending
    _commit(database, store, run_id, (one, segmented(one)))
    other_model = begin_run(database, archive_id, model="other", digest="b" * 64)
    other_config = begin_run(database, archive_id, config_digest="e" * 64)
    for run_id in (other_model, other_config):
        assert _keys(plan_work(database, run_id, ["1.2.3"]).pending) == ["1.2.3"]
    scan(database, [series_row("1.2.3", fingerprint="0" * 64)])
    assert _keys(plan_work(database, begin_run(database, archive_id), ["1.2.3"]).pending) == ["1.2.3"]


def _plan_one(database: Database, archive_id: int, config: str, retry: bool = False) -> tuple[str, WorkItem]:
    run_id = begin_run(database, archive_id, config_digest=config * 64)
    (item,) = plan_work(database, run_id, ["1.2.3"], retry=retry).pending
    return run_id, item


def test_generation_counts_work_keys_with_findings(database: Database, store: Store, archive_id: int) -> None:
    """Each further configuration with a finding gets the next mask folder; one without does not take one."""
    for config, generation in (("1", 1), ("2", 2), ("3", 3)):
        run_id, item = _plan_one(database, archive_id, config)
        assert item.generation == generation
        _commit(database, store, run_id, (item, segmented(item)))
    assert _plan_one(database, archive_id, "4")[1].generation == 4
    assert _plan_one(database, archive_id, "5")[1].generation == 4
    other = begin_run(database, archive_id, model="other", digest="b" * 64)
    assert plan_work(database, other, ["1.2.3"]).pending[0].generation == 1


def test_a_retry_never_takes_the_folder_of_another_finding(database: Database, store: Store, archive_id: int) -> None:
    """The first configuration failed, the second was segmented; the first, done again, keeps its own number."""
    run_id, item = _plan_one(database, archive_id, "1")
    _commit(database, store, run_id, (item, failed(item)))
    run_id, item = _plan_one(database, archive_id, "2")
    _commit(database, store, run_id, (item, segmented(item)))
    assert item.generation == 2
    assert _plan_one(database, archive_id, "1", retry=True)[1].generation == 1


def test_mask_folders() -> None:
    """The first bears the model's name alone."""
    assert [mask_folder("m", generation) for generation in (1, 2, 3)] == ["m", "m~2", "m~3"]


def test_series_of_two_archives_have_masks_of_their_own(database: Database, store: Store, archive_id: int) -> None:
    """Of the same UIDs in one store: a mask that a finding names is never written over, nor one that is being made."""
    first = plan_work(database, begin_run(database, archive_id), KEYS[:2]).pending
    other = scan(database, [series_row(key) for key in KEYS], root="/another/archive")
    run_id = begin_run(database, other)
    second = plan_work(database, run_id, KEYS).pending
    assert [item.generation for item in (*first, *second)] == [1, 1, 2, 2, 1]
    _commit(database, store, run_id, (second[0], segmented(second[0])))
    (again,) = plan_work(database, begin_run(database, archive_id), KEYS[:1]).pending
    assert again.generation == 3


@pytest.mark.parametrize("reason", ["changed_while_reading", "unreadable_file"])
def test_failures_that_may_have_passed_are_tried_again_unasked(
    database: Database, store: Store, archive_id: int, reason: str
) -> None:
    """As after a share that dropped out for a moment; once it was segmented it is done."""
    run_id = begin_run(database, archive_id)
    (item,) = plan_work(database, run_id, KEYS[:1]).pending
    _commit(database, store, run_id, (item, replace(failed(item), reason=reason)))
    assert preview_work(database, archive_id, "a" * 64, "c" * 64, {KEYS[0]: "f" * 64}).pending == 1
    run_id = begin_run(database, archive_id)
    (again,) = plan_work(database, run_id, KEYS[:1]).pending
    assert (again.work_item_id, again.attempts) == (item.work_item_id, 2)
    _commit(database, store, run_id, (again, segmented(again)))
    assert plan_work(database, begin_run(database, archive_id), KEYS[:1]).already_done == (KEYS[0],)


def test_a_redo_that_may_succeed_by_now_is_tried_again_unasked(
    database: Database, store: Store, archive_id: int
) -> None:
    """Although its finding was superseded at once, because an earlier one of the same files is segmented."""
    first = begin_run(database, archive_id)
    (item,) = plan_work(database, first, KEYS[:1]).pending
    _commit(database, store, first, (item, segmented(item)))
    redo = begin_run(database, archive_id, config_digest="e" * 64)
    (item,) = plan_work(database, redo, KEYS[:1]).pending
    _commit(database, store, redo, (item, replace(failed(item), reason=Reason.UNREADABLE_FILE)))
    again = plan_work(database, begin_run(database, archive_id, config_digest="e" * 64), KEYS[:1])
    assert (_keys(again.pending), again.left_out) == (["1.2.3"], ())


def test_a_limit_leaves_the_rest_unplanned(database: Database, archive_id: int) -> None:
    """Nothing is entered for what was not chosen."""
    planned = plan_work(database, begin_run(database, archive_id), KEYS, limit=2)
    assert _keys(planned.pending) == KEYS[:2]
    with database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(WorkItemTable)) == 2


def test_only_readable_series_of_the_archive_are_work(database: Database, archive_id: int) -> None:
    """A refused or unknown series is a mistake of the caller, and nothing is planned."""
    scan(database, [series_row("1.2.3"), series_row("1.2.9", reason="localizer")])
    run_id = begin_run(database, archive_id)
    for key in ("1.2.9", "9.9"):
        with pytest.raises(ValueError, match=key):
            plan_work(database, run_id, ["1.2.3", key])
    with pytest.raises(RunNotFoundError, match="nowhere"):
        plan_work(database, "nowhere", ["1.2.3"])
    with database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(WorkItemTable)) == 0


def test_a_preview_says_what_would_be_planned_and_writes_nothing(
    database: Database, store: Store, archive_id: int
) -> None:
    """Done, failed, grown since, and never seen."""
    run_id = begin_run(database, archive_id)
    one, two, three = plan_work(database, run_id, KEYS).pending
    _commit(database, store, run_id, (one, segmented(one)), (two, failed(two)), (three, segmented(three)))
    found = {"1.2.3": "f" * 64, "1.2.4": "f" * 64, "1.2.5": "0" * 64, "9.9": "f" * 64}
    preview = preview_work(database, archive_id, "a" * 64, "c" * 64, found)
    assert preview == WorkPreview(pending=2, already_done=1, left_out=1)
    retried = preview_work(database, archive_id, "a" * 64, "c" * 64, found, retry=True)
    assert retried == WorkPreview(pending=3, already_done=1, left_out=0)
    with database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(WorkItemTable)) == 3


def test_planning_is_done_in_batches(database: Database) -> None:
    """3,500 series, beyond the batch size, take a few statements a thousand."""
    keys = [f"1.2.{n}" for n in range(3500)]
    archive_id = scan(database, [series_row(key, n_files=0) for key in keys])
    run_id = begin_run(database, archive_id)
    with counted_statements(database) as statements:
        planned = plan_work(database, run_id, keys)
    assert len(statements) < 40
    assert _keys(planned.pending) == keys
    with database.read() as connection:
        entered = set(connection.scalars(select(WorkItemTable.id).where(WorkItemTable.run_id == run_id)))
    assert {item.work_item_id for item in planned.pending} == entered
