"""Is the database what this version expects, and whole?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import CheckConstraint, Connection, inspect, text

from vaeseg.db.migrate import revisions
from vaeseg.db.session import Database
from vaeseg.db.tables import Base
from vaeseg.db.views import VIEWS

INVALID_IN_POSTGRESQL = """
SELECT 'index ' || indexrelid::regclass::text || ' is not valid: REINDEX it' FROM pg_index
WHERE NOT indisvalid AND indrelid::regclass::text = ANY(:tables)
UNION ALL
SELECT 'constraint ' || conname || ' is not validated' FROM pg_constraint
WHERE NOT convalidated AND conrelid::regclass::text = ANY(:tables)
"""


def differences(database: Database) -> list[str]:
    """What is wrong, a sentence each; nothing if the database is as it should be.

    An older database is one difference, because everything else follows from it.

    Raises:
        StoreError: the database cannot be read.
    """
    with database.read() as connection:
        is_at, should_be = revisions(connection)
        if is_at != should_be:
            found = [f"the database is at revision {is_at or 'none'}, this version at {should_be}"]
        else:
            found = [*_of_tables(connection), *_of_checks(connection), *_of_views(connection)]
        return [*found, *_damage(connection)]


def _of_tables(connection: Connection) -> Iterator[str]:
    """Tables, columns, types, keys and indexes, as Alembic compares them; tables of others are not ours to judge."""
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    def is_ours(_thing: Any, _name: str | None, kind: str, reflected: bool, compare_to: Any) -> bool:
        return not (kind == "table" and reflected and compare_to is None)

    context = MigrationContext.configure(connection, opts={"compare_type": True, "include_object": is_ours})
    for change in compare_metadata(context, Base.metadata):
        for step in change if isinstance(change, list) else [change]:
            yield _sentence(step)


def _sentence(step: tuple[Any, ...]) -> str:
    """Of what Alembic would do, such as ``("add_column", None, "series", Column(...))``."""
    kind, *rest = step
    if kind in ("add_column", "remove_column"):
        what = f"column {rest[1]}.{rest[2].name}"
    elif kind.startswith("modify_"):
        return f"column {rest[1]}.{rest[2]} differs: {kind.removeprefix('modify_')} is {rest[-2]}, should be {rest[-1]}"
    else:
        what = f"{kind.partition('_')[2]} {rest[0].name}"
    return f"{what} is missing" if kind.startswith("add_") else f"{what} should not be there"


def _of_checks(connection: Connection) -> Iterator[str]:
    """Check constraints, which Alembic does not compare."""
    inspector = inspect(connection)
    present = set(inspector.get_table_names())
    for table in Base.metadata.sorted_tables:
        wanted = {str(check.name) for check in table.constraints if isinstance(check, CheckConstraint)}
        if table.name in present and wanted:
            for name in sorted(wanted - {check["name"] for check in inspector.get_check_constraints(table.name)}):
                yield f"check constraint {name} is missing"


def _of_views(connection: Connection) -> Iterator[str]:
    inspector = inspect(connection)
    present = set(inspector.get_view_names())
    for name, view in VIEWS.tables.items():
        if name not in present:
            yield f"view {name} is missing"
        elif [column["name"] for column in inspector.get_columns(name)] != view.columns.keys():
            yield f"view {name} has other columns"


def _damage(connection: Connection) -> list[str]:
    checks: dict[str, Callable[[Connection], list[str]]] = {"sqlite": _of_file, "postgresql": _of_server}
    return checks[connection.dialect.name](connection)


def _of_file(connection: Connection) -> list[str]:
    found = connection.execute(text("PRAGMA quick_check")).scalars()
    broken = connection.execute(text("PRAGMA foreign_key_check")).all()
    return [
        *(f"the file is damaged: {line}" for line in found if line != "ok"),
        *(f"row {row[1]} of {row[0]} refers to a row of {row[2]} that is not there" for row in broken),
    ]


def _of_server(connection: Connection) -> list[str]:
    """The server keeps its foreign keys; what it was told not to check is found here."""
    return list(connection.execute(text(INVALID_IN_POSTGRESQL), {"tables": list(Base.metadata.tables)}).scalars())
