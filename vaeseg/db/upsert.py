"""Insert many rows, or update those that are there: the one statement that the two databases spell differently."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from vaeseg.db.tables import Base

BATCH_ROWS = 1000
"""Rows a statement: far below the 32,766 parameters that SQLite allows, even for the widest table."""

Item = TypeVar("Item")


def upsert(
    connection: Connection,
    table: type[Base],
    rows: Sequence[dict[str, Any]],
    *,
    key: Sequence[str],
    keep: Sequence[str] = (),
) -> None:
    """Insert rows; one whose key is taken replaces the values there.

    Args:
        connection: in a transaction.
        table: where.
        rows: all with the same columns.
        key: the columns of a unique constraint.
        keep: columns that an existing row keeps.
    """
    if not rows:
        return
    statement = (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(table)
    fixed = {*key, *keep}
    changed = {name: statement.excluded[name] for name in rows[0] if name not in fixed}
    connection.execute(statement.on_conflict_do_update(index_elements=key, set_=changed), rows)


def insert_missing(
    connection: Connection, table: type[Base], rows: Sequence[dict[str, Any]], *, key: Sequence[str]
) -> None:
    """Insert rows; one whose key is taken is left out."""
    if rows:
        statement = (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(table)
        connection.execute(statement.on_conflict_do_nothing(index_elements=key), rows)


def in_batches(items: Iterable[Item], size: int = BATCH_ROWS) -> Iterator[list[Item]]:
    """Lists of at most `size` items, in order."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
