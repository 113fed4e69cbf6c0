from __future__ import annotations

import re
from pathlib import Path

import pytest

from vaeseg.db.tables import Base
from vaeseg.db.views import VIEWS
from vaeseg.io.parquet import SCHEMAS

DESCRIBED = Base.metadata.tables | {name: view for name, view in VIEWS.tables.items() if name != "latest_findings"}
"""Tables and views; of one view the document says that it has the columns of a table."""

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


@pytest.mark.parametrize("table", sorted(DESCRIBED))
def test_every_column_is_documented(table: str) -> None:
    """Each table and view has a section with exactly its columns, in their order."""
    assert [row[0] for row in _rows(_section(table))] == DESCRIBED[table].columns.keys()


@pytest.mark.parametrize("table", sorted(DESCRIBED))
def test_the_document_says_when_a_column_is_null(table: str) -> None:
    """ "never" where the schema forbids NULL, and only there."""
    columns = DESCRIBED[table].columns
    for name, _, null in _rows(_section(table)):
        assert null.startswith("never") == (not columns[name].nullable), f"{table}.{name}"


def test_parquet_columns_are_documented() -> None:
    """Each data set with exactly its columns, in their order."""
    documented = {row[0]: row[1].split(", ") for row in _rows(_section("Parquet"))}
    assert documented == {dataset: schema.names for dataset, schema in SCHEMAS.items()}
