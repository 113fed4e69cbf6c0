"""Which Parquet parts exist: SQL knows a part before its files lie where readers look."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, func, select, update

from vaeseg.db.session import Database
from vaeseg.db.tables import PartTable
from vaeseg.records import PartFile


def next_part_name(database: Database, run_id: str) -> str:
    """Name for a run's next part; the same again until a part of that name is recorded.

    One behind the last, not their number: an erasure may have removed some.
    """
    last = (
        select(PartTable.name)
        .where(PartTable.run_id == run_id)
        .order_by(func.length(PartTable.name).desc(), PartTable.name.desc())
        .limit(1)
    )
    with database.read() as connection:
        name = connection.scalar(last)
    number = int(name.removeprefix("part-").removesuffix(".parquet")) if name else 0
    return f"part-{number + 1:05d}.parquet"


def unpublished_parts(database: Database) -> list[PartFile]:
    """Files that SQL has recorded, whose move to their place was not confirmed; oldest first."""
    with database.read() as connection:
        rows = connection.execute(
            select(PartTable.run_id, PartTable.dataset, PartTable.name, PartTable.n_rows, PartTable.sha256)
            .where(PartTable.published.is_(False))
            .order_by(PartTable.id)
        ).all()
    return [PartFile(**row._mapping) for row in rows]


def is_recorded(database: Database, part: PartFile) -> bool:
    """Whether SQL knows this file."""
    with database.read() as connection:
        return connection.scalar(select(PartTable.id).where(row_of(part))) is not None


def mark_published(database: Database, parts: Sequence[PartFile]) -> None:
    """Confirm that files lie in their place."""
    with database.write() as connection:
        for part in parts:
            connection.execute(update(PartTable).where(row_of(part)).values(published=True))


def recorded_parts(database: Database, run_id: str | None = None) -> list[tuple[PartFile, bool]]:
    """Every file of a run, or of all, with whether its move to its place was confirmed; oldest first."""
    statement = select(
        PartTable.run_id, PartTable.dataset, PartTable.name, PartTable.n_rows, PartTable.sha256, PartTable.published
    ).order_by(PartTable.id)
    if run_id is not None:
        statement = statement.where(PartTable.run_id == run_id)
    with database.read() as connection:
        rows = connection.execute(statement).all()
    return [(PartFile(**{k: v for k, v in row._mapping.items() if k != "published"}), row.published) for row in rows]


def row_of(part: PartFile) -> ColumnElement[bool]:
    """The condition that chooses a file's row."""
    return (PartTable.run_id == part.run_id) & (PartTable.dataset == part.dataset) & (PartTable.name == part.name)
