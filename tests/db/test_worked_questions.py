"""Every question of docs/data-model.md is asked, and its answer compared with what the fixture put in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from ledger_factories import (
    DIGEST,
    MASK,
    MODEL,
    SUBJECT,
    Clock,
    begin_run,
    failed,
    scan,
    segmented,
    series_row,
    skipped,
)
from sqlalchemy import insert

from vaeseg.db.answers import Question
from vaeseg.db.archives import add_archive
from vaeseg.db.ask import ask
from vaeseg.db.runs import finish_run
from vaeseg.db.session import Database
from vaeseg.db.tables import COVERAGE, RunCoverageTable
from vaeseg.db.work import plan_work
from vaeseg.distributed.commit import commit_group
from vaeseg.io.parquet import encode_mask
from vaeseg.io.store import Store
from vaeseg.records import Overlap, SliceRecord

DOCUMENT = (Path(__file__).parents[2] / "docs/data-model.md").read_text()

OTHER = "6" * 16

ROWS = [
    series_row("1.1.1", study_instance_uid="1.1", study_date=date(2026, 1, 1)),
    series_row("1.2.1", study_instance_uid="1.2", study_date=date(2026, 3, 2)),
    series_row("1.3.1", study_instance_uid="1.3", study_date=None),
    series_row("1.4.1", study_instance_uid="1.4", study_date=date(2026, 2, 2), subject_key=OTHER),
    series_row("1.5.1", study_instance_uid="1.5", subject_key=OTHER),
    series_row("1.6.1", study_instance_uid="1.6", subject_key=OTHER),
]
"""Segmented with 1, 4, 2 and 8 ml; failed; skipped."""

OVERLAP = Overlap(iou=0.5, dice=0.75, iou_model_grid=None, dice_model_grid=None)

COVERED = {
    "segmented": {"": (4, 12)},
    "left_out_by_rule": {"min_slices": (1, 3)},
    "refused": {"not_an_image": (0, 2), "localizer": (1, 1)},
    "failed": {"decode_failed": (1, 3)},
}


def blocks(language: str) -> list[str]:
    """Code blocks in the order of the document."""
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)


def numbered() -> dict[int, str]:
    """The text of each numbered question."""
    return {int(number): body for number, body in re.findall(r"^### (\d+)\. (.*?)(?=^##|\Z)", DOCUMENT, re.M | re.S)}


@pytest.fixture
def filled(database: Database, store: Store, clock: Clock, database_url: str) -> str:
    """A night with every outcome, then two series by another model; the URL."""
    add_archive(database, "ward", "/archive/Doe^Jane/2026")
    archive_id = scan(database, ROWS)
    first_night(database, store, archive_id, clock)
    clock.advance(86400)
    run_id = begin_run(database, archive_id, model="other", digest="b" * 64)
    one, two = plan_work(database, run_id, ["1.1.1", "1.2.1"]).pending
    commit_group(run_id, [(one, segmented(one, volume_ml=1.5)), (two, segmented(two, volume_ml=3.0))], store, database)
    return database_url


def first_night(database: Database, store: Store, archive_id: int, clock: Clock) -> None:
    run_id = begin_run(database, archive_id, model=MODEL, digest=DIGEST)
    *items, wrong, small = plan_work(database, run_id, [row.series_key for row in ROWS]).pending
    outcomes = [segmented(item, volume_ml=ml) for item, ml in zip(items, (1.0, 4.0, 2.0, 8.0), strict=True)]
    planes = tuple(SliceRecord(slice_index=k, tumour_area_mm2=(0.0, 3.0, 5.0)[k], iou=k / 4) for k in range(3))
    outcomes[1] = replace(outcomes[1], overlap=OVERLAP, slices=planes)
    done = list(zip(items, outcomes, strict=True))
    commit_group(run_id, [*done, (wrong, failed(wrong)), (small, skipped(small))], store, database)
    clock.advance(6)
    counted = [
        {"run_id": run_id, "category": category, "reason": reason, "n_series": n_series, "n_files": n_files}
        for category in COVERAGE
        for reason, (n_series, n_files) in COVERED.get(category, {"": (0, 0)}).items()
    ]
    with database.write() as connection:
        connection.execute(insert(RunCoverageTable), counted)
    finish_run(database, run_id, "finished")


def plain(rows: Any) -> list[tuple[Any, ...]]:
    """Dates as text and numbers as numbers, as either database and DuckDB may give them."""

    def value(cell: Any) -> Any:
        if isinstance(cell, date | datetime):
            return cell.isoformat()
        return cell if cell is None or isinstance(cell, str | int) else pytest.approx(float(cell))

    return [tuple(value(cell) for cell in row) for row in rows]


ANSWERS: Mapping[int, list[tuple[Any, ...]]] = {
    1: [("1.4.1", 8.0, 2), ("1.2.1", 4.0, 2), ("1.3.1", 2.0, 2), ("1.1.1", 1.0, 2)],
    2: [
        ("other", "segmented", "", 2),
        (MODEL, "failed", "decode_failed", 1),
        (MODEL, "segmented", "", 4),
        (MODEL, "skipped", "min_slices", 1),
    ],
    3: [("ward", "2026-11-22", 5, 21, 7, 4, 0)],
    4: [
        ("failed", "decode_failed", 1, 3),
        ("left_out_by_rule", "min_slices", 1, 3),
        ("refused", "not_an_image", 0, 2),
        ("refused", "localizer", 1, 1),
    ],
    5: [
        (uid, index, pytest.approx(ml * share), 1.0, -2.0, 3.0)
        for uid, ml, index, share in (
            ("1.4.1", 8.0, 1, 2 / 3),
            ("1.2.1", 4.0, 1, 2 / 3),
            ("1.4.1", 8.0, 2, 1 / 3),
            ("1.2.1", 4.0, 2, 1 / 3),
            ("1.3.1", 2.0, 1, 2 / 3),
            ("1.1.1", 1.0, 1, 2 / 3),
            ("1.3.1", 2.0, 2, 1 / 3),
            ("1.1.1", 1.0, 2, 1 / 3),
        )
    ],
    6: [(SUBJECT, "2026-03-02", 4.0, 300.0, 30.0), (SUBJECT, "2026-03-02", 3.0, 100.0, 60.0)],
    7: [
        (OTHER, MODEL, "2026-02-02", 0, 8.0),
        (SUBJECT, MODEL, "2026-03-02", 60, 4.0),
        (SUBJECT, "other", "2026-03-02", 60, 3.0),
    ],
    8: [("other", 0, None, None), (MODEL, 1, 0.75, 0.75)],
    9: [("1.2.1", "other", MODEL, 3.0, 4.0), ("1.1.1", "other", MODEL, 1.5, 1.0)],
}

STAGES = [("other", 6, 1.0, 0.5, 0.25), (MODEL, 12, 2.0, 1.0, 0.5)]
"""Model, slices, and seconds of the stages of each night, latest first: what DuckDB says to question 10."""


def test_ten_questions_in_sql(filled: str) -> None:
    """On either database, as `query` asks them, so that none needs a table that a reader does not see."""
    asked = {number: re.findall(r"^```sql\n(.*?)^```", body, re.M | re.S) for number, body in numbered().items()}
    assert {number: len(found) for number, found in asked.items()} == dict.fromkeys(range(1, 11), 1)
    assert len(blocks("sql")) == 10
    given = {
        number: plain(ask(filled, Question(statement=statement, limit=100, timeout_seconds=60)).rows)
        for number, (statement,) in asked.items()
    }
    throughput = given.pop(10)
    assert [row[:3] for row in throughput] == [("2026-11-23", "other", 6), ("2026-11-22", MODEL, 12)]
    assert throughput[1][3:] == (2.0, pytest.approx(3.5 / 5.0), pytest.approx(1.0 / 5.0), pytest.approx(0.5 / 5.0))
    for number, answer in ANSWERS.items():
        assert given[number] == answer, number


def test_of_studies_of_the_last_day_the_burden_is_of_the_one_that_stands_for_it(
    filled: str, database: Database, store: Store
) -> None:
    """That with the thinnest slices; the others sort before and after it."""
    day = date(2026, 3, 2)
    rows = [
        series_row(f"1.{n}.1", study_instance_uid=f"1.{n}", study_date=day, spacing_mm=(thickness, 0.5, 0.75))
        for n, thickness in (("0", 5.0), ("8", 1.0), ("9", 3.0))
    ]
    run_id = begin_run(database, scan(database, rows))
    items = plan_work(database, run_id, [row.series_key for row in rows]).pending
    volumes = (0.0, 6.0, 0.0)
    outcomes = [(item, segmented(item, volume_ml=ml)) for item, ml in zip(items, volumes, strict=True)]
    commit_group(run_id, outcomes, store, database)
    (statement,) = re.findall(r"^```sql\n(.*?)^```", numbered()[7], re.M | re.S)
    given = plain(ask(filled, Question(statement=statement, limit=100, timeout_seconds=60)).rows)
    assert given == [
        (OTHER, MODEL, "2026-02-02", 0, 8.0),
        (SUBJECT, MODEL, "2026-03-02", 60, 6.0),
        (SUBJECT, "other", "2026-03-02", 60, 3.0),
    ]


def test_the_same_questions_in_duckdb(filled: str, store: Store) -> None:
    """Over the Parquet files alone, with the same answers; where they cannot answer, the document says so."""
    connection = duckdb.connect()
    prepared, *_ = blocks("duckdb")
    connection.execute(prepared.replace("vaeseg-store", str(store.root)))
    for number, body in numbered().items():
        found = re.findall(r"^```duckdb\n(.*?)^```", body, re.M | re.S)
        if not found:
            assert "\nParquet does not hold this: " in body, number
            continue
        answer = plain(connection.sql(found[0].replace("vaeseg-store", str(store.root))).fetchall())
        assert answer == (ANSWERS | {10: STAGES})[number], number
    connection.close()


def test_questions_that_only_parquet_answers(filled: str, store: Store) -> None:
    """Slices and masks are not in SQL."""
    prepared, *_ = blocks("duckdb")
    slices, worst, room = blocks("duckdb")[-3:]
    connection = duckdb.connect()
    connection.execute(prepared.replace("vaeseg-store", str(store.root)))

    def answer(query: str) -> list[tuple[Any, ...]]:
        return connection.sql(query.replace("vaeseg-store", str(store.root))).fetchall()

    assert answer(slices)[1] == ("1.2.1", 2, 2, 5.0)
    assert answer(worst) == [("1.2.1", 0, 0.0), ("1.2.1", 1, 0.25), ("1.2.1", 2, 0.5)]
    size = len(encode_mask(MASK))
    assert answer(room) == [("other", 2, 2 * size), (MODEL, 4, 4 * size)]
    connection.close()


def test_slices_that_were_measured_anew_are_not_among_the_worst(
    filled: str, database: Database, store: Store, clock: Clock
) -> None:
    """What an older finding of the series said is past."""
    clock.advance(60)
    run_id = begin_run(database, scan(database, ROWS), config_digest="e" * 64)
    (item,) = plan_work(database, run_id, ["1.2.1"]).pending
    planes = (SliceRecord(slice_index=1, tumour_area_mm2=3.0, iou=0.75),)
    commit_group(run_id, [(item, replace(segmented(item), slices=planes))], store, database)
    prepared, *_ = blocks("duckdb")
    _, worst, _ = blocks("duckdb")[-3:]
    with duckdb.connect() as connection:
        connection.execute(prepared.replace("vaeseg-store", str(store.root)))
        found = connection.sql(worst.replace("vaeseg-store", str(store.root))).fetchall()
    assert found == [("1.2.1", 1, 0.75)]
