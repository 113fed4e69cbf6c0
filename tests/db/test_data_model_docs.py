from __future__ import annotations

import re
from pathlib import Path

import duckdb
import pytest
from ledger_factories import begin_run, failed, scan, segmented, series_row
from sqlalchemy import text

from vaeseg.db.session import Database
from vaeseg.db.tables import Base
from vaeseg.db.work import plan_work
from vaeseg.distributed.commit import commit_group
from vaeseg.io.parquet import SCHEMAS
from vaeseg.io.store import Store

DOCUMENT = (Path(__file__).parents[2] / "docs/data-model.md").read_text()


def _section(title: str) -> str:
    match = re.search(rf"^## {title}$(.*?)(?=^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert match is not None, f"no section {title}"
    return match.group(1)


def _rows(section: str) -> list[list[str]]:
    """Cells of the first table of a section, without heading and rule."""
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert table is not None
    return [line.strip("| ").split(" | ") for line in table.group().splitlines()[2:]]


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("table", sorted(Base.metadata.tables))
def test_every_column_is_documented(table: str) -> None:
    """Each table has a section with exactly its columns, in their order."""
    assert [row[0] for row in _rows(_section(table))] == Base.metadata.tables[table].columns.keys()


@pytest.mark.parametrize("table", sorted(Base.metadata.tables))
def test_the_document_says_when_a_column_is_null(table: str) -> None:
    """ "never" where the schema forbids NULL, and only there."""
    columns = Base.metadata.tables[table].columns
    for name, _, null in _rows(_section(table)):
        assert null.startswith("never") == (not columns[name].nullable), f"{table}.{name}"


def test_parquet_columns_are_documented() -> None:
    """Each data set with exactly its columns, in their order."""
    documented = {row[0]: row[1].split(", ") for row in _rows(_section("Parquet"))}
    assert documented == {dataset: schema.names for dataset, schema in SCHEMAS.items()}


@pytest.fixture
def filled(database: Database, store: Store) -> Database:
    """A run with a segmented and a failed series."""
    run_id = begin_run(database, scan(database, [series_row("1.2.1"), series_row("1.2.2")], junk=2))
    one, two = plan_work(database, run_id, ["1.2.1", "1.2.2"]).pending
    commit_group(run_id, [(one, segmented(one)), (two, failed(two))], store, database)
    return database


def test_the_questions_in_sql_are_answered(filled: Database) -> None:
    """Every query of the document runs, on either database, and gives what the fixture holds."""
    with filled.read() as connection:
        answers = [[tuple(row) for row in connection.execute(text(query))] for query in _blocks("sql")]
    assert len(answers) == 5
    largest, outcomes, files, lesions, burden = answers
    assert largest == [("1.2.1", 3.0, 2)]
    assert sorted(row[1:] for row in outcomes) == [("failed", "decode_failed", 1), ("segmented", "", 1)]
    assert files == [(8, 6, 2)]
    assert [(lesion[0], lesion[1], *lesion[3:]) for lesion in lesions] == [
        ("1.2.1", 1, 1.0, -2.0, 3.0),
        ("1.2.1", 2, 1.0, -2.0, 3.0),
    ]
    assert burden == [("5" * 16, "1.2", 3.0)]


def test_the_question_in_duckdb_is_answered(filled: Database, store: Store) -> None:
    """Over the Parquet files alone."""
    (query,) = _blocks("duckdb")
    assert duckdb.sql(query.replace("vaeseg-store", str(store.root))).fetchall() == [("phantom-v1", 2, 3.0)]
