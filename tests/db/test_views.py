"""The views, with answers that can be checked by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from ledger_factories import SUBJECT, Clock, begin_run, failed, scan, segmented, series_row, skipped
from sqlalchemy import Table, insert, select, text

from vaeseg.db.index_series import SeriesRow
from vaeseg.db.runs import finish_run
from vaeseg.db.session import Database
from vaeseg.db.tables import COVERAGE, RunCoverageTable
from vaeseg.db.views import (
    COVERAGE_OF_RUNS,
    COVERAGE_REASONS,
    LATEST_LESIONS,
    RUN_THROUGHPUT,
    TUMOUR_VOLUME_TREND,
)
from vaeseg.db.work import plan_work
from vaeseg.distributed.commit import commit_group
from vaeseg.io.store import Store


def study(number: int, day: date | None, series: str = "1", **changes: Any) -> SeriesRow:
    """A series of the study `1.<number>`."""
    uid = f"1.{number}.{series}"
    return series_row(uid, study_instance_uid=f"1.{number}", study_date=day, **changes)


def segment(database: Database, store: Store, volumes: Sequence[tuple[SeriesRow, float]], **run: Any) -> str:
    """One run that finds these volumes."""
    run_id = begin_run(database, scan(database, [row for row, _ in volumes]), **run)
    items = plan_work(database, run_id, [row.series_key for row, _ in volumes]).pending
    outcomes = [
        (item, replace(segmented(item, volume_ml=ml), n_slices=row.n_slices or 0))
        for item, (row, ml) in zip(items, volumes, strict=True)
    ]
    commit_group(run_id, outcomes, store, database)
    return run_id


def rows_of(database: Database, view: Table, *order: str) -> list[Mapping[str, Any]]:
    with database.read() as connection:
        return list(connection.execute(select(view).order_by(*order)).mappings())


def test_a_volume_that_doubles_and_one_that_shrinks(database: Database, store: Store) -> None:
    """From 1 to 4 ml in 60 days is two doublings; no growth and no tumour have no doubling time."""
    days = [date(2026, 1, 1), date(2026, 3, 2), date(2026, 4, 1), date(2026, 5, 1), date(2026, 6, 1)]
    volumes = [1.0, 4.0, 4.0, 0.0, 2.0]
    segment(database, store, [(study(n, days[n]), volumes[n]) for n in range(5)])
    rows = rows_of(database, TUMOUR_VOLUME_TREND, "study_date", "study_instance_uid")
    assert [row["study_date"] for row in rows] == days
    assert [row["days_since_first"] for row in rows] == [0, 60, 90, 120, 151]
    assert [row["days_since_previous"] for row in rows] == [None, 60, 30, 30, 31]
    assert [row["change_ml"] for row in rows] == [None, 3.0, 0.0, -4.0, 2.0]
    assert [row["change_percent"] for row in rows] == [None, 300.0, 0.0, -100.0, None]
    reasons = [row["doubling_reason"] for row in rows]
    assert reasons == ["first_study", None, "not_growing", "no_tumour", "no_tumour"]
    assert [row["volume_doubling_days"] for row in rows] == [None, pytest.approx(30.0), None, None, None]
    assert {(row["subject_key"], row["model"], row["n_series"]) for row in rows} == {(SUBJECT, "phantom-v1", 1)}


def test_one_study_of_a_day_is_compared_and_the_others_are_listed(database: Database, store: Store) -> None:
    """The one with the thinnest slices, wherever its UID sorts: a chest of 1 ml and an abdomen without tumour, the next
    day both again, then the chest with twice the tumour."""
    chest, abdomen = (1.5, 0.7, 0.7), (5.0, 0.7, 0.7)
    first, second, third = date(2026, 1, 1), date(2026, 1, 2), date(2026, 2, 1)
    volumes = [
        (study(1, first, spacing_mm=chest), 1.0),
        (study(2, first, spacing_mm=abdomen), 0.0),
        (study(3, second, spacing_mm=abdomen), 0.0),
        (study(4, second, spacing_mm=chest), 1.0),
        (study(5, third, spacing_mm=chest), 2.0),
    ]
    segment(database, store, volumes)
    rows = rows_of(database, TUMOUR_VOLUME_TREND, "study_date", "study_instance_uid")
    assert [row["doubling_reason"] for row in rows] == ["first_study", "same_day", "same_day", "not_growing", None]
    assert [row["days_since_first"] for row in rows] == [0, 0, 1, 1, 31]
    assert [row["days_since_previous"] for row in rows] == [None, None, None, 1, 30]
    assert [row["change_ml"] for row in rows] == [None, None, None, 0.0, 1.0]
    assert rows[-1]["volume_doubling_days"] == pytest.approx(30.0)


def test_volumes_by_two_files_of_a_model_are_not_compared(database: Database, store: Store) -> None:
    """A model that was trained anew under its name measures otherwise: a difference is not growth."""
    days = [date(2026, 1, 1), date(2026, 3, 2), date(2026, 4, 1)]
    segment(database, store, [(study(0, days[0]), 1.0)])
    segment(database, store, [(study(1, days[1]), 2.0), (study(2, days[2]), 4.0)], digest="b" * 64)
    rows = rows_of(database, TUMOUR_VOLUME_TREND, "study_date")
    assert [row["doubling_reason"] for row in rows] == ["first_study", "other_model", None]
    assert [row["days_since_previous"] for row in rows] == [None, 60, 30]
    assert [row["change_ml"] for row in rows] == [None, None, 2.0]
    assert [row["change_percent"] for row in rows] == [None, None, 100.0]
    assert rows[-1]["volume_doubling_days"] == pytest.approx(30.0)


def test_a_study_without_a_date_is_listed_and_compared_with_nothing(database: Database, store: Store) -> None:
    """It stands beside the timeline of those that have one."""
    dated = [(study(1, date(2026, 1, 1)), 1.0), (study(3, date(2026, 1, 31)), 2.0)]
    segment(database, store, [*dated, (study(2, None), 7.0), (study(4, None), 9.0)])
    rows = rows_of(database, TUMOUR_VOLUME_TREND, "study_instance_uid")
    assert [row["days_since_first"] for row in rows] == [0, None, 30, None]
    assert [row["change_ml"] for row in rows] == [None, None, 1.0, None]
    assert [row["doubling_reason"] for row in rows] == ["first_study", "undated", None, "undated"]


def test_a_tumour_in_two_reconstructions_counts_once(database: Database, store: Store) -> None:
    """Of series that cover the same the one with the thinnest slices; one that covers little does not stand for all."""
    day = date(2026, 1, 1)
    geometry = {"rows": 10, "columns": 10}
    thick = study(1, day, "1", n_slices=10, voxel_volume_mm3=5.0, spacing_mm=(5.0, 1.0, 1.0), **geometry)
    thin = study(1, day, "2", n_slices=48, voxel_volume_mm3=1.0, spacing_mm=(1.0, 1.0, 1.0), **geometry)
    same = study(1, day, "3", n_slices=48, voxel_volume_mm3=1.0, spacing_mm=(1.0, 1.0, 1.0), **geometry)
    detail = study(1, day, "4", n_slices=60, voxel_volume_mm3=0.1, spacing_mm=(0.5, 0.5, 0.5), **geometry)
    segment(database, store, [(detail, 1.0), (same, 2.0), (thin, 3.0), (thick, 4.0)])
    (row,) = rows_of(database, TUMOUR_VOLUME_TREND)
    assert (row["series_instance_uid"], row["tumour_volume_ml"], row["n_series"]) == ("1.1.2", 3.0, 4)


def test_a_series_that_lost_slices_stands_for_its_study_as_it_was_measured(database: Database, store: Store) -> None:
    """Its finding is of 300 slices, however many are left."""
    day = date(2026, 1, 1)
    thin = study(1, day, "1", n_slices=300, voxel_volume_mm3=1.0, spacing_mm=(1.0, 1.0, 1.0))
    thick = study(1, day, "2", n_slices=60, voxel_volume_mm3=5.0, spacing_mm=(5.0, 1.0, 1.0))
    segment(database, store, [(thin, 8.0), (thick, 0.0)])
    scan(database, [replace(thin, n_slices=140, fingerprint="0" * 64, reason="slices_vanished")])
    (row,) = rows_of(database, TUMOUR_VOLUME_TREND)
    assert (row["series_instance_uid"], row["tumour_volume_ml"], row["n_series"]) == ("1.1.1", 8.0, 2)


def test_subjects_models_and_older_findings_are_kept_apart(database: Database, store: Store, clock: Clock) -> None:
    """One row a subject, model and study, of the latest finding; who has no key is in no trend."""
    day = date(2026, 1, 1)
    segment(database, store, [(study(1, day), 1.0), (study(2, day, subject_key="6" * 16), 2.0)])
    segment(database, store, [(study(3, day, subject_key=None), 3.0)])
    segment(database, store, [(study(1, day), 5.0)], model="other", digest="b" * 64)
    clock.advance(60)
    segment(database, store, [(study(1, day, fingerprint="0" * 64), 9.0)])
    rows = rows_of(database, TUMOUR_VOLUME_TREND, "subject_key", "model")
    assert [(row["subject_key"][0], row["model"], row["tumour_volume_ml"]) for row in rows] == [
        ("5", "other", 5.0),
        ("5", "phantom-v1", 9.0),
        ("6", "phantom-v1", 2.0),
    ]


def test_the_trend_of_one_subject_reads_one_subject(database: Database) -> None:
    """SQLite narrows a view to a subject only whose every level has one window; else it would read all."""
    if database.engine.dialect.name == "sqlite":
        question = "EXPLAIN QUERY PLAN SELECT * FROM tumour_volume_trend WHERE subject_key = 'x'"
        with database.read() as connection:
            plan = [row.detail for row in connection.execute(text(question))]
        assert any("ix_findings_subject_key (subject_key=?)" in step for step in plan), plan


def test_coverage_adds_up_in_series_and_files(database: Database) -> None:
    """One row a run that ended; the files were counted by the scan, the series by what became of them."""
    run_id = begin_run(database, scan(database, [series_row("1.2.3")], junk=2))
    still_running = begin_run(database, scan(database, []))
    counts = {category: (n + 1, 10 * (n + 1)) for n, category in enumerate(COVERAGE)}
    rows = [
        {"run_id": run_id, "category": category, "reason": "", "n_series": series, "n_files": files}
        for category, (series, files) in counts.items()
    ]
    rows.append({"run_id": run_id, "category": "refused", "reason": "localizer", "n_series": 4, "n_files": 5})
    with database.write() as connection:
        connection.execute(insert(RunCoverageTable), rows)
    finish_run(database, run_id, "finished")
    (night,) = rows_of(database, COVERAGE_OF_RUNS)
    assert (night["run_id"], night["run_date"], night["status"]) == (run_id, date(2026, 11, 22), "finished")
    assert (night["series_refused"], night["files_refused"]) == (3 + 4, 30 + 5)
    assert night["series_found"] == sum(night[f"series_{category}"] for category in COVERAGE) == 28 + 4
    assert sum(night[f"files_{category}"] for category in COVERAGE) == 280 + 5
    assert night["files_found"] == 5  # what `begin_run` counted
    reasons = rows_of(database, COVERAGE_REASONS, "category", "reason")
    assert len(reasons) == 8
    assert {(row["reason"], row["n_series"]) for row in reasons if row["category"] == "refused"} == {
        (None, 3),
        ("localizer", 4),
    }
    assert still_running not in {row["run_id"] for row in reasons}


def test_throughput_of_a_run(database: Database, store: Store, clock: Clock) -> None:
    """Two series of three slices in 4 seconds; shares are of the time that the stages took together."""
    run_id = begin_run(database, scan(database, [series_row(f"1.2.{n}") for n in range(4)]))
    one, two, three, four = plan_work(database, run_id, [f"1.2.{n}" for n in range(4)]).pending
    outcomes = [(one, segmented(one)), (two, segmented(two)), (three, failed(three)), (four, skipped(four))]
    commit_group(run_id, outcomes, store, database)
    clock.advance(4)
    finish_run(database, run_id, "finished")
    (run,) = rows_of(database, RUN_THROUGHPUT)
    assert (run["n_series"], run["n_segmented"], run["n_slices"]) == (4, 2, 6)
    assert (run["wall_seconds"], run["slices_per_second"]) == (pytest.approx(4.0), pytest.approx(1.5))
    assert (run["read_seconds"], run["segment_seconds"], run["measure_seconds"]) == (2.5, 0.5, 0.25)
    assert run["read_share"] + run["segment_share"] + run["measure_share"] == pytest.approx(1.0)
    assert run["segment_share"] == pytest.approx(0.5 / 3.25)


def test_a_run_that_measured_nothing_has_no_shares(database: Database, store: Store) -> None:
    """NULL, and no division by zero: nothing was timed, and it began and ended at the same moment."""
    run_id = begin_run(database, scan(database, [series_row("1.2.3")]))
    (item,) = plan_work(database, run_id, ["1.2.3"]).pending
    commit_group(run_id, [(item, skipped(item))], store, database)
    (run,) = rows_of(database, RUN_THROUGHPUT)
    assert (run["n_slices"], run["wall_seconds"], run["slices_per_second"]) == (0, 0.0, None)
    assert {run[name] for name in ("read_seconds", "read_share", "segment_share", "measure_share")} == {None}


def test_lesions_of_the_latest_findings(database: Database, store: Store, clock: Clock) -> None:
    """With series, study and subject; those of an older finding are gone."""
    segment(database, store, [(study(1, date(2026, 1, 1)), 3.0)])
    clock.advance(60)
    segment(database, store, [(study(1, date(2026, 1, 1), fingerprint="0" * 64), 6.0)])
    rows = rows_of(database, LATEST_LESIONS, "lesion_index")
    assert [row["lesion_index"] for row in rows] == [1, 2]
    assert [row["volume_ml"] for row in rows] == pytest.approx([4.0, 2.0])
    assert {(row["series_instance_uid"], row["subject_key"], row["study_date"]) for row in rows} == {
        ("1.1.1", SUBJECT, date(2026, 1, 1))
    }
