"""Series of the index with the files that they and their groups have, from which their manifests are made."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, select

from vaeseg.db.index_files import files_of_groups
from vaeseg.db.session import Database
from vaeseg.db.tables import InstanceTable, SeriesTable
from vaeseg.db.upsert import in_batches
from vaeseg.records import IndexedFile


@dataclass(frozen=True, kw_only=True)
class FoundSeries:
    """A readable series as the index names it, with what is needed to judge its group once more."""

    series_key: str
    series_instance_uid: str
    study_instance_uid: str
    subject_key: str | None
    warnings: tuple[str, ...]
    paths: frozenset[str]
    """Its own files."""
    group_files: tuple[IndexedFile, ...]
    """All of its group."""


def series_with_files(database: Database, archive_id: int, series_keys: Sequence[str]) -> list[FoundSeries]:
    """Series with all files of their groups, in the order of the keys; for some hundreds at a time."""
    statement = select(SeriesTable.__table__).where(SeriesTable.archive_id == archive_id)
    with database.read() as connection:
        rows = [
            row
            for batch in in_batches(series_keys)
            for row in connection.execute(statement.where(SeriesTable.series_key.in_(batch)))
        ]
        files = files_of_groups(connection, archive_id, sorted({row.group_key for row in rows}))
        paths = _paths(connection, [row.id for row in rows])
    found = {row.series_key: _found(row, paths[row.id], files[row.group_key]) for row in rows}
    return [found[key] for key in series_keys]


def _paths(connection: Connection, series_ids: Sequence[int]) -> dict[int, set[str]]:
    """Asked for those of an archive, SQLite would look at all files of it."""
    statement: Any = select(InstanceTable.series_id, InstanceTable.path).where(InstanceTable.missing_since.is_(None))
    paths: dict[int, set[str]] = defaultdict(set)
    for batch in in_batches(series_ids):
        for series_id, path in connection.execute(statement.where(InstanceTable.series_id.in_(batch))):
            paths[series_id].add(path)
    return paths


def _found(row: Row[Any], paths: Iterable[str], group_files: Sequence[IndexedFile]) -> FoundSeries:
    return FoundSeries(
        series_key=row.series_key,
        series_instance_uid=row.series_instance_uid,
        study_instance_uid=row.study_instance_uid,
        subject_key=row.subject_key,
        warnings=tuple(row.warnings),
        paths=frozenset(paths),
        group_files=tuple(group_files),
    )
