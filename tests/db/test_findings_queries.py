from __future__ import annotations

from datetime import timedelta

import pytest
from ledger_factories import (
    ROOT,
    Clock,
    begin_run,
    failed,
    files_of,
    group_of,
    scan,
    segmented,
    series_row,
    skipped,
)

from vaeseg.db.archives import add_archive
from vaeseg.db.findings import ORDER_COLUMNS, FindingFilter, FindingRow, query_findings
from vaeseg.db.index_files import record_files
from vaeseg.db.index_series import JudgedSeries, record_groups
from vaeseg.db.session import Database
from vaeseg.db.work import plan_work
from vaeseg.distributed.commit import commit_group
from vaeseg.errors import RunNotFoundError, UsageError
from vaeseg.io.store import Store

KEYS = ["1.2.1", "1.2.2", "1.2.3", "1.2.4", "1.2.5"]


@pytest.fixture
def run_id(database: Database, store: Store) -> str:
    """Volumes 1, 10, 0 ml, one failed, one skipped."""
    archive_id = scan(database, [series_row(key) for key in KEYS])
    run_id = begin_run(database, archive_id)
    one, two, three, four, five = plan_work(database, run_id, KEYS).pending
    outcomes = [(item, segmented(item, volume_ml=volume)) for item, volume in ((one, 1.0), (two, 10.0), (three, 0.0))]
    commit_group(run_id, [*outcomes, (four, failed(four)), (five, skipped(five))], store, database)
    return run_id


def _uids(rows: list[FindingRow]) -> list[str]:
    return [row.series_instance_uid for row in rows]


def test_largest_first_and_unmeasured_last(database: Database, run_id: str) -> None:
    """NULL is neither small nor large."""
    rows = query_findings(database, order_by="tumour_volume_ml")
    assert _uids(rows) == ["1.2.2", "1.2.1", "1.2.3", "1.2.4", "1.2.5"]
    assert [row.tumour_volume_ml for row in rows] == [10.0, 1.0, 0.0, None, None]


def test_text_from_a_to_z_and_missing_text_last(database: Database, run_id: str) -> None:
    """Reasons, which segmented series have none of."""
    rows = query_findings(database, order_by="reason")
    assert [row.reason for row in rows] == ["decode_failed", "min_slices", None, None, None]


def test_filters(database: Database, run_id: str) -> None:
    """At least so much, and at most so many; what was not measured has no volume to compare."""
    assert _uids(query_findings(database, FindingFilter(min_volume_ml=1.0), order_by="tumour_volume_ml")) == [
        "1.2.2",
        "1.2.1",
    ]
    assert len(query_findings(database, FindingFilter(min_volume_ml=0.0))) == 3
    assert _uids(query_findings(database, order_by="tumour_volume_ml", limit=1)) == ["1.2.2"]


def test_the_latest_by_default_and_a_run_with_its_own(
    database: Database, store: Store, clock: Clock, run_id: str
) -> None:
    """A series that grew has one current finding; its first run still shows the superseded one."""
    clock.advance(60)
    archive_id = scan(database, [series_row("1.2.2", fingerprint="0" * 64)])
    second = begin_run(database, archive_id)
    (item,) = plan_work(database, second, ["1.2.2"]).pending
    commit_group(second, [(item, segmented(item, volume_ml=20.0))], store, database)
    latest = query_findings(database)
    assert len(latest) == 5
    assert (latest[0].series_instance_uid, latest[0].tumour_volume_ml) == ("1.2.2", 20.0)
    assert _uids(query_findings(database, FindingFilter(run_id=second))) == ["1.2.2"]
    before = query_findings(database, FindingFilter(run_id=run_id))
    assert len(before) == 5
    assert [row.superseded_at for row in before if row.series_instance_uid == "1.2.2"] == [clock.moment]


@pytest.mark.parametrize("column", ORDER_COLUMNS)
def test_every_listed_column_orders(database: Database, run_id: str, column: str) -> None:
    """None of them fails, on either database."""
    assert sorted(_uids(query_findings(database, order_by=column))) == KEYS


def test_questions_that_have_no_answer(database: Database, run_id: str) -> None:
    """An unknown run, and a column that is none or must not be ordered by."""
    with pytest.raises(RunNotFoundError, match="no run x"):
        query_findings(database, FindingFilter(run_id="x"))
    with pytest.raises(ValueError, match="tumour_volume_ml"):
        query_findings(database, order_by="id; DROP TABLE findings")


def test_every_filter_leaves_out_what_it_should(database: Database, store: Store, clock: Clock, run_id: str) -> None:
    """One series in another archive, by another model, of another subject, a day later."""
    began = clock.moment
    clock.advance(86400)
    add_archive(database, "ward", ROOT)
    other = add_archive(database, "other", "/other").id
    row = series_row("1.9.1", subject_key="6" * 16)
    record_files(database, other, 1, files_of(row))
    paths = tuple(file.path for file in files_of(row))
    record_groups(database, other, {group_of(row): [JudgedSeries(row=row, paths=paths)]})
    second = begin_run(database, other, model="other", digest="b" * 64)
    (item,) = plan_work(database, second, ["1.9.1"]).pending
    commit_group(second, [(item, segmented(item))], store, database)
    for wanted in (
        FindingFilter(archive="other"),
        FindingFilter(model="other"),
        FindingFilter(subject_key="6" * 16),
        FindingFilter(since=began + timedelta(hours=1)),
    ):
        assert _uids(query_findings(database, wanted)) == ["1.9.1"], wanted
    assert len(query_findings(database, FindingFilter(until=began + timedelta(hours=1)))) == 5
    assert len(query_findings(database, FindingFilter(archive="ward"))) == 5
    assert sorted(row.archive for row in query_findings(database)) == ["other", *["ward"] * 5]
    for run, archives in ((run_id, {"ward"}), (second, {"other"})):
        assert {row.archive for row in query_findings(database, FindingFilter(run_id=run))} == archives
    assert _uids(query_findings(database, FindingFilter(outcome="failed"))) == ["1.2.4"]
    with pytest.raises(UsageError, match="no archive nowhere"):
        query_findings(database, FindingFilter(archive="nowhere"))
