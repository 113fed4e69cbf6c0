from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ledger_factories import (
    MASK,
    MODEL,
    SUBJECT,
    Clock,
    begin_run,
    counted_statements,
    failed,
    scan,
    segmented,
    series_row,
    skipped,
)
from sqlalchemy import func, select

from vaeseg.db.findings import FindingFilter, query_findings
from vaeseg.db.session import Database
from vaeseg.db.summaries import run_summary
from vaeseg.db.tables import FindingTable, LesionTable, PartTable
from vaeseg.db.work import plan_work
from vaeseg.distributed import commit as commit_module
from vaeseg.distributed.commit import COMMIT_STEPS, Recovery, commit_group, mark_crashed, recover_parts
from vaeseg.errors import DatabaseAwayError, StoreError
from vaeseg.io.parquet import SCHEMAS, read_dataset, read_masks
from vaeseg.io.store import Store
from vaeseg.paths import AnyPath, below, matches
from vaeseg.records import Overlap

KEYS = ["1.2.1", "1.2.2", "1.2.3", "1.2.4"]


class Killed(BaseException):
    """Stands for a SIGKILL: nothing catches it."""


class Run:
    """A run with four planned series."""

    def __init__(self, database: Database) -> None:
        self.archive_id = scan(database, [series_row(key) for key in KEYS])
        self.run_id = begin_run(database, self.archive_id)
        self.items = plan_work(database, self.run_id, KEYS).pending


@pytest.fixture
def run(database: Database) -> Run:
    return Run(database)


def _kill_at(step: str, occurrence: int = 1) -> Callable[[str], None]:
    seen = 0

    def hook(name: str) -> None:
        nonlocal seen
        seen += name == step
        if name == step and seen == occurrence:
            raise Killed

    return hook


@pytest.fixture
def store(any_store: Store) -> Store:
    return any_store


def _files(root: AnyPath) -> list[str]:
    return [str(below(path, root)) for path in matches(root, "*/*/*")]


def test_one_group_is_in_sql_and_in_parquet(database: Database, store: Store, run: Run) -> None:
    """The same numbers in both; a part in each data set that has rows."""
    one, two, three, four = run.items
    overlap = Overlap(iou=0.5, dice=2 / 3, iou_model_grid=0.25, dice_model_grid=0.4)
    outcomes = [(one, segmented(one, overlap=overlap)), (two, segmented(two, volume_ml=0.0))]
    commit_group(run.run_id, [*outcomes, (three, skipped(three)), (four, failed(four))], store, database)
    rows = {row.series_instance_uid: row for row in query_findings(database, FindingFilter(run_id=run.run_id))}
    tumour, clear, left_out, broken = (rows[key] for key in KEYS)
    assert (tumour.outcome, tumour.tumour_volume_ml, tumour.lesion_count) == ("segmented", 3.0, 2)
    assert (tumour.largest_lesion_ml, tumour.n_slices, tumour.subject_key) == (pytest.approx(2.0), 3, SUBJECT)
    assert (tumour.iou, tumour.dice, tumour.iou_model_grid, tumour.dice_model_grid) == (0.5, 2 / 3, 0.25, 0.4)
    assert (tumour.read_seconds, tumour.segment_seconds, tumour.measure_seconds) == (0.5, 0.25, 0.125)
    assert (tumour.warnings, tumour.mask_uri) == (("gantry_tilt",), f"masks/1.2/1.2.1/{MODEL}/mask.nii.gz")
    assert (clear.tumour_volume_ml, clear.lesion_count, clear.largest_lesion_ml, clear.iou) == (0.0, 0, 0.0, None)
    assert (left_out.outcome, left_out.reason, left_out.tumour_volume_ml) == ("skipped", "min_slices", None)
    assert (broken.outcome, broken.reason, broken.detail) == ("failed", "decode_failed", "slice 2 of 3")
    assert (broken.read_seconds, broken.mask_uri, broken.lesion_count, broken.n_slices) == (1.5, None, None, 3)
    in_parquet = {row["series_instance_uid"]: row for row in read_dataset(store.parquet, "findings").to_pylist()}
    for key, row in rows.items():
        assert in_parquet[key] == {name: getattr(row, name) for name in SCHEMAS["findings"].names}


def test_lesions_slices_and_masks_go_with_their_series(database: Database, store: Store, run: Run) -> None:
    """SQL and Parquet have the same lesions; the mask comes back voxel by voxel."""
    item = run.items[0]
    commit_group(run.run_id, [(item, segmented(item))], store, database)
    with database.read() as connection:
        in_sql = connection.execute(select(LesionTable.__table__).order_by(LesionTable.lesion_index)).all()
    in_parquet = read_dataset(store.parquet, "lesions").to_pylist()
    assert [lesion.volume_ml for lesion in in_sql] == [pytest.approx(2.0), pytest.approx(1.0)]
    shared = [name for name in SCHEMAS["lesions"].names if name in LesionTable.__table__.columns]
    assert len(shared) == 8
    for one, other in zip(in_sql, in_parquet, strict=True):
        assert [getattr(one, name) for name in shared] == [other[name] for name in shared]
    slices = read_dataset(store.parquet, "slices").to_pylist()
    assert [(row["slice_index"], row["tumour_area_mm2"], row["iou"]) for row in slices] == [
        (0, 0.0, None),
        (1, 4.0, None),
        (2, 0.0, None),
    ]
    (mask,) = read_masks(store.parquet, "1.2.1")
    np.testing.assert_array_equal(mask.mask, MASK)


def test_parts_are_recorded_with_digest_and_rows(database: Database, store: Store, run: Run) -> None:
    """What `verify` will compare: every file has a row, its digest is that of its bytes, nothing stays in staging."""
    for item in run.items[:2]:
        commit_group(run.run_id, [(item, segmented(item))], store, database)
    with database.read() as connection:
        parts = connection.execute(select(PartTable.__table__)).all()
        named = connection.scalars(select(FindingTable.part).order_by(FindingTable.id)).all()
    assert named == ["part-00001.parquet", "part-00002.parquet"]
    assert len(parts) == 8
    assert all(part.published for part in parts)
    for part in parts:
        path = store.parquet / part.dataset / f"run_id={part.run_id}" / part.name
        assert hashlib.sha256(path.read_bytes()).hexdigest() == part.sha256
        assert read_dataset(store.parquet, part.dataset).num_rows == 2 * part.n_rows
    assert list(store.staging.iterdir()) == []


def test_a_newer_finding_supersedes_the_older_one(database: Database, store: Store, run: Run, clock: Clock) -> None:
    """For the same series and model name; other models and other series stay current."""
    one, two, *_ = run.items
    commit_group(run.run_id, [(one, segmented(one)), (two, segmented(two))], store, database)
    clock.advance(60)
    for model, digest, volume in (("phantom-v1", "b" * 64, 4.0), ("other", "9" * 64, 5.0)):
        run_id = begin_run(database, run.archive_id, model=model, digest=digest)
        (item,) = plan_work(database, run_id, ["1.2.1"]).pending
        commit_group(run_id, [(item, segmented(item, volume_ml=volume))], store, database)
    current = {(row.series_instance_uid, row.model): row.tumour_volume_ml for row in query_findings(database)}
    assert current == {("1.2.1", "phantom-v1"): 4.0, ("1.2.1", "other"): 5.0, ("1.2.2", "phantom-v1"): 3.0}
    with database.read() as connection:
        superseded = connection.scalars(
            select(FindingTable.superseded_at).where(FindingTable.superseded_at.is_not(None))
        ).all()
    assert superseded == [clock.moment]


@pytest.mark.parametrize("outcome", ["failed", "crashed"])
def test_a_redo_that_fails_on_the_same_files_leaves_the_measurement_current(
    database: Database, store: Store, run: Run, clock: Clock, outcome: str
) -> None:
    """It is in its run and waits for a retry, whose finding then supersedes the older one."""
    commit_group(run.run_id, [(run.items[0], segmented(run.items[0]))], store, database)
    clock.advance(60)
    redo = begin_run(database, run.archive_id, config_digest="e" * 64)
    (item,) = plan_work(database, redo, ["1.2.1"]).pending
    commit_group(redo, [(item, failed(item, crashed=outcome == "crashed"))], store, database)
    assert [(row.run_id, row.tumour_volume_ml) for row in query_findings(database)] == [(run.run_id, 3.0)]
    (row,) = query_findings(database, FindingFilter(run_id=redo))
    assert (row.outcome, row.superseded_at) == (outcome, clock.moment)
    assert plan_work(database, redo, ["1.2.1"]).left_out == ("1.2.1",)
    (item,) = plan_work(database, redo, ["1.2.1"], retry=True).pending
    commit_group(redo, [(item, segmented(item, volume_ml=4.0))], store, database)
    assert [row.tumour_volume_ml for row in query_findings(database)] == [4.0]


def test_a_failure_on_other_files_supersedes_what_was_measured(database: Database, store: Store, run: Run) -> None:
    """The volume was of files that are no longer so."""
    commit_group(run.run_id, [(run.items[0], segmented(run.items[0]))], store, database)
    scan(database, [series_row("1.2.1", fingerprint="0" * 64)])
    (item,) = plan_work(database, run.run_id, ["1.2.1"]).pending
    commit_group(run.run_id, [(item, failed(item))], store, database)
    assert [row.outcome for row in query_findings(database)] == ["failed"]


@pytest.mark.parametrize(
    ("step", "occurrence", "is_recorded"),
    [
        ("staged", 1, False),
        ("recorded", 1, True),
        ("moved", 1, True),
        ("moved", 2, True),
        ("moved", 4, True),
        ("published", 1, True),
    ],
)
def test_killed_at_any_step_nothing_is_lost_or_doubled(
    database: Database, store: Store, run: Run, clock: Clock, step: str, occurrence: int, is_recorded: bool
) -> None:
    """After recovery the killed group is either wholly there or wholly to do; done again it is there once."""
    group = [(item, segmented(item)) for item in run.items]
    with pytest.raises(Killed):
        commit_group(run.run_id, group, store, database, _kill_at(step, occurrence))
    clock.advance(61)
    recover_parts(store, database)
    assert recover_parts(store, database) == Recovery(published=(), removed=(), missing=())
    run_id = begin_run(database, run.archive_id)
    planned = plan_work(database, run_id, KEYS)
    assert (len(planned.pending), len(planned.already_done)) == ((0, 4) if is_recorded else (4, 0))
    commit_group(run_id, [(item, segmented(item)) for item in planned.pending], store, database)
    assert sorted(row["series_instance_uid"] for row in read_dataset(store.parquet, "findings").to_pylist()) == KEYS
    assert [row.series_instance_uid for row in query_findings(database, order_by="series_instance_uid")] == KEYS
    assert len(list(read_masks(store.parquet))) == 4
    assert len(_files(store.parquet)) == 4
    assert list(store.staging.iterdir()) == []


def test_every_step_is_named(database: Database, store: Store, run: Run) -> None:
    """The hook sees the protocol in its order."""
    seen: list[str] = []
    item = run.items[0]
    commit_group(run.run_id, [(item, segmented(item))], store, database, seen.append)
    assert seen == ["staged", "recorded", "moved", "moved", "moved", "moved", "published"]
    assert set(seen) == set(COMMIT_STEPS)


def test_recovery_can_be_killed_too(
    database: Database, store: Store, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between moving the files and saying so."""
    item = run.items[0]
    with pytest.raises(Killed):
        commit_group(run.run_id, [(item, segmented(item))], store, database, _kill_at("moved", 2))

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("vaeseg.distributed.commit.mark_published", die)
        with pytest.raises(Killed):
            recover_parts(store, database)
    assert len(recover_parts(store, database).published) == 4
    assert len(list(read_masks(store.parquet))) == 1


def test_recovery_leaves_a_live_run_alone(database: Database, store: Store, run: Run, clock: Clock) -> None:
    """Another run may be between staging and SQL; only when it has been silent is its staging removed."""
    item = run.items[0]
    with pytest.raises(Killed):
        commit_group(run.run_id, [(item, segmented(item))], store, database, _kill_at("staged"))
    assert recover_parts(store, database) == Recovery(published=(), removed=(), missing=())
    assert len(_files(store.staging)) == 4
    clock.advance(61)
    assert len(recover_parts(store, database).removed) == 4
    assert list(store.staging.iterdir()) == []


def test_a_recorded_file_that_is_gone_is_reported(database: Database, store: Store, run: Run) -> None:
    """Every time, until somebody acts: it is never taken for published."""
    item = run.items[0]
    with pytest.raises(Killed):
        commit_group(run.run_id, [(item, segmented(item))], store, database, _kill_at("recorded"))
    (store.staging / run.run_id / "masks" / "part-00001.parquet").unlink()
    assert [part.dataset for part in recover_parts(store, database).missing] == ["masks"]
    recovery = recover_parts(store, database)
    assert ([part.dataset for part in recovery.missing], recovery.published) == (["masks"], ())


def test_a_full_disk_while_staging_changes_nothing(
    database: Database, store: Store, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One clear error; SQL knows nothing of the group; the same run goes on once there is room."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    item = run.items[0]
    with monkeypatch.context() as patch:
        patch.setattr("vaeseg.io.parts.write_dataset_file", full)
        with pytest.raises(StoreError, match="No space left"):
            commit_group(run.run_id, [(item, segmented(item))], store, database)
    assert query_findings(database) == []
    assert commit_group(run.run_id, [(item, segmented(item))], store, database) == 1
    assert list(store.staging.iterdir()) == []


def test_work_that_another_run_finished_is_left_out(database: Database, store: Store, run: Run) -> None:
    """Two runs planned the same series: the second commit counts only what is new."""
    second = begin_run(database, run.archive_id)
    planned = plan_work(database, second, KEYS[:2]).pending
    one, two = run.items[:2]
    assert commit_group(run.run_id, [(one, segmented(one))], store, database) == 1
    assert commit_group(second, [(item, segmented(item)) for item in planned], store, database) == 1
    assert commit_group(second, [(two, segmented(two))], store, database) == 0
    assert sorted(row["series_instance_uid"] for row in read_dataset(store.parquet, "findings").to_pylist()) == KEYS[:2]


def test_crashed_series_are_findings_and_wait(database: Database, store: Store, run: Run) -> None:
    """Recorded with what happened, and left out of the next run."""
    mark_crashed(run.run_id, run.items[:2], store, database)
    row, _ = query_findings(database, order_by="series_instance_uid")
    assert (row.outcome, row.reason, row.tumour_volume_ml) == ("crashed", "decoder_crashed", None)
    summary = run_summary(database, run.run_id)
    assert (summary.outcomes["crashed"], summary.pending) == (2, 2)
    assert plan_work(database, begin_run(database, run.archive_id), KEYS).left_out == tuple(KEYS[:2])


def test_two_series_of_one_uid_are_two_findings(database: Database, store: Store) -> None:
    """A split series: the ledger keeps both current, the masks are told apart by their series key."""
    run_id = begin_run(database, scan(database, [series_row("1.2.3"), series_row("1.2.3-2")]))
    items = plan_work(database, run_id, ["1.2.3", "1.2.3-2"]).pending
    commit_group(run_id, [(item, segmented(item)) for item in items], store, database)
    assert [row.series_instance_uid for row in query_findings(database)] == ["1.2.3", "1.2.3"]
    assert [mask.series_key for mask in read_masks(store.parquet, "1.2.3")] == ["1.2.3", "1.2.3-2"]


def test_statements_do_not_grow_with_the_group(database: Database, store: Store) -> None:
    """500 findings with lesions take as many statements as 5: they go in batches."""
    keys = [f"1.3.{n}" for n in range(505)]
    run_id = begin_run(database, scan(database, [series_row(key, n_files=0) for key in keys]))
    items = plan_work(database, run_id, keys).pending
    counts = []
    for part in (items[:5], items[5:]):
        with counted_statements(database) as statements:
            assert commit_group(run_id, [(item, segmented(item)) for item in part], store, database) == len(part)
        counts.append(len(statements))
    assert counts[1] <= counts[0] + 2


def test_no_path_and_no_name_leaves_the_index(database: Database, store: Store, run: Run) -> None:
    """The archive's root and file names hold a patient's name: no Parquet file and no other table has it."""
    item = run.items[0]
    commit_group(run.run_id, [(item, segmented(item))], store, database)
    for path in matches(store.parquet, "*/*/*"):
        assert b"doe" not in path.read_bytes().lower()
    with database.read() as connection:
        for table in PartTable.metadata.sorted_tables:
            if table.name not in ("archives", "instances"):
                assert "doe" not in str(connection.execute(select(table)).all()).lower(), table.name
        assert connection.scalar(select(func.count()).select_from(FindingTable)) == 1


@pytest.mark.parametrize("is_recorded_first", [True, False], ids=["and was recorded", "and was not"])
def test_a_commit_whose_answer_was_lost_is_made_once(
    database: Database, store: Store, run: Run, monkeypatch: pytest.MonkeyPatch, is_recorded_first: bool
) -> None:
    """The server goes away in the commit of a failed series: one finding, whether it had been recorded or not."""
    really = commit_module.record_group
    calls: list[int] = []

    def lose_the_first_answer(*arguments: Any) -> None:
        calls.append(1)
        if is_recorded_first or len(calls) > 1:
            really(*arguments)
        if len(calls) == 1:
            raise DatabaseAwayError("gone")

    monkeypatch.setattr(commit_module, "record_group", lose_the_first_answer)
    monkeypatch.setattr("vaeseg.db.session.RECONNECT_SECONDS", 0.0)
    item = run.items[0]
    assert commit_group(run.run_id, [(item, failed(item))], store, database.patient(lambda: None)) == 1
    assert len(calls) == 2 - is_recorded_first
    with database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(FindingTable)) == 1
        assert connection.scalars(select(PartTable.published)).all() == [True]


@pytest.mark.parametrize("name", ["open_items", "run_key", "next_part_name", "is_recorded", "mark_published"])
def test_a_commit_outlasts_a_server_that_goes_away(
    database: Database, store: Store, run: Run, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """In whatever it asks or tells: what was segmented is not lost over a restart."""
    really = getattr(commit_module, name)
    calls: list[int] = []

    def fail_once(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise DatabaseAwayError("gone")
        return really(*arguments)

    monkeypatch.setattr(commit_module, name, fail_once)
    monkeypatch.setattr("vaeseg.db.session.RECONNECT_SECONDS", 0.0)
    item = run.items[0]
    assert commit_group(run.run_id, [(item, failed(item))], store, database.patient(lambda: None)) == 1
    assert len(calls) == 2
