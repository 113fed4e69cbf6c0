"""The index of an archive: the files that were ever found, and what each said.

Files that come, change or go mark their groups as changed; `db.index_series` records what series changed groups make.
Both happen in transactions of their own, so that a scan that was killed is gone on with where it stood.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Connection, func, select, update

from vaeseg.db.session import Database
from vaeseg.db.tables import ChangedGroupTable, InstanceTable
from vaeseg.db.upsert import BATCH_ROWS, in_batches, insert_missing, upsert
from vaeseg.records import IndexedFile, Reason

FILE_COLUMNS = tuple(field.name for field in fields(IndexedFile))


@dataclass(frozen=True, kw_only=True)
class KnownFile:
    """What the index has of a file, as far as it decides whether to read it again."""

    size: int
    mtime_ns: int
    reader_version: int
    is_missing: bool
    is_unread: bool
    """It could not be read, which its size and time do not tell of."""
    is_image: bool
    """A slice or a volume, and not refused."""


def known_files(database: Database, archive_id: int, directories: Iterable[str]) -> dict[str, dict[str, KnownFile]]:
    """Files of some directories, missing ones included: directory to path to file."""
    known: dict[str, dict[str, KnownFile]] = defaultdict(dict)
    columns = ("path", "directory", "size", "mtime_ns", "reader_version", "missing_since", "reason")
    statement = instances(archive_id, *columns)
    with database.read() as connection:
        for batch in in_batches(directories):
            for row in connection.execute(statement.where(InstanceTable.directory.in_(batch))):
                known[row.directory][row.path] = KnownFile(
                    size=row.size,
                    mtime_ns=row.mtime_ns,
                    reader_version=row.reader_version,
                    is_missing=row.missing_since is not None,
                    is_unread=row.reason == Reason.UNREADABLE_FILE,
                    is_image=row.reason is None,
                )
    return known


def count_present(database: Database, archive_id: int, directories: Iterable[str], but: Collection[str] = ()) -> int:
    """How many files of some directories are not known to be missing.

    Args:
        database: where.
        archive_id: whose.
        directories: as `known_files` has them.
        but: paths that do not count; some thousand at most.
    """
    of_archive = (InstanceTable.archive_id == archive_id) & InstanceTable.missing_since.is_(None)
    present = select(func.count()).where(of_archive, InstanceTable.path.not_in(but))
    n_files = 0
    with database.read() as connection:
        for batch in in_batches(directories):
            n_files += connection.scalar(present.where(InstanceTable.directory.in_(batch))) or 0
    return n_files


def known_directories(database: Database, archive_id: int) -> list[str]:
    """Directories that hold files which are not known to be missing."""
    present = instances(archive_id, "directory").where(InstanceTable.missing_since.is_(None))
    with database.read() as connection:
        return list(connection.scalars(present.distinct()))


def record_files(
    database: Database,
    archive_id: int,
    reader_version: int,
    read: Sequence[IndexedFile] = (),
    new: Collection[str] = (),
    found_again: Sequence[str] = (),
    vanished: Sequence[str] = (),
) -> None:
    """Make the index say what became of files, and mark the groups that this touches as changed; one transaction.

    Args:
        database: where.
        archive_id: whose.
        reader_version: of the reader that read them.
        read: new or changed files, as read just now.
        new: paths of which it is known that the index does not have them: they are in no group yet.
        found_again: paths that were missing and are back, unchanged.
        vanished: paths that are gone; their rows stay, marked missing.
    """
    paths = [*(file.path for file in read if file.path not in new), *found_again, *vanished]
    with database.write() as connection:
        groups = _groups_touched(connection, archive_id, paths)
        for batch in in_batches(read):
            upsert(
                connection,
                InstanceTable,
                [_instance(archive_id, reader_version, file) for file in batch],
                key=("archive_id", "path"),
            )
        _mark(connection, archive_id, found_again, None)
        _mark(connection, archive_id, vanished, database.now())
        groups |= {file.group_key for file in read if file.group_key is not None}
        groups |= _groups_beside(connection, archive_id, {file.directory for file in read if file.is_damaged})
        for names in in_batches(sorted(groups)):
            rows = [{"archive_id": archive_id, "group_key": group} for group in names]
            insert_missing(connection, ChangedGroupTable, rows, key=("archive_id", "group_key"))


def changed_groups(
    database: Database, archive_id: int, max_files: int, after: str = ""
) -> dict[str, list[IndexedFile]]:
    """Some groups that are to be judged, in order, with all their files in order of path; empty when there are no more.

    Args:
        database: where.
        archive_id: whose.
        max_files: more than these only if a single group has more.
        after: the group before them.
    """
    n_files_of = (  # a join would be a loop in a loop on SQLite, which takes what is asked of one key for both
        select(func.count())
        .where(InstanceTable.archive_id == archive_id, InstanceTable.group_key == ChangedGroupTable.group_key)
        .scalar_subquery()
    )
    counted = (
        select(ChangedGroupTable.group_key, n_files_of)
        .where(ChangedGroupTable.archive_id == archive_id, ChangedGroupTable.group_key > after)
        .order_by(ChangedGroupTable.group_key)
        .limit(BATCH_ROWS)
    )
    chosen: list[str] = []
    with database.read() as connection:
        n_files = 0
        for group, count in connection.execute(counted):
            n_files += count
            if chosen and n_files > max_files:
                break
            chosen.append(group)
        return files_of_groups(connection, archive_id, chosen)


def damaged_directories(database: Database, archive_id: int, directories: Iterable[str]) -> set[str]:
    """Those of some directories that hold a damaged file."""
    damaged = instances(archive_id, "directory").where(InstanceTable.is_damaged, InstanceTable.missing_since.is_(None))
    with database.read() as connection:
        return {
            directory
            for batch in in_batches(directories)
            for directory in connection.scalars(damaged.where(InstanceTable.directory.in_(batch)).distinct())
        }


def _groups_touched(connection: Connection, archive_id: int, paths: Sequence[str]) -> set[str]:
    """Groups that the files are in, and those with a file in a directory where one of them is damaged."""
    statement = instances(archive_id, "group_key", "directory", "is_damaged")
    groups: set[str] = set()
    directories: set[str] = set()
    for batch in in_batches(paths):
        for row in connection.execute(statement.where(InstanceTable.path.in_(batch))):
            groups |= {row.group_key} - {None}
            directories |= {row.directory} if row.is_damaged else set()
    return groups | _groups_beside(connection, archive_id, directories)


def _groups_beside(connection: Connection, archive_id: int, directories: Iterable[str]) -> set[str]:
    """Groups with a file in any of some directories."""
    groups: set[str] = set()
    beside = instances(archive_id, "group_key").where(InstanceTable.group_key.is_not(None)).distinct()
    for batch in in_batches(directories):
        groups |= set(connection.scalars(beside.where(InstanceTable.directory.in_(batch))))
    return groups


def _instance(archive_id: int, reader_version: int, file: IndexedFile) -> dict[str, Any]:
    return vars(file) | {
        "archive_id": archive_id,
        "directory": file.directory,
        "reader_version": reader_version,
        "series_id": None,
        "missing_since": None,
    }


def _mark(connection: Connection, archive_id: int, paths: Sequence[str], missing_since: Any) -> None:
    for batch in in_batches(paths):
        which = (InstanceTable.archive_id == archive_id) & InstanceTable.path.in_(batch)
        connection.execute(update(InstanceTable).where(which).values(missing_since=missing_since))


def files_of_groups(connection: Connection, archive_id: int, groups: Sequence[str]) -> dict[str, list[IndexedFile]]:
    """Group to its files that are not missing, in order of path.

    Sorted here: asked for an order, SQLite looks at every file of the archive in that order for each batch of groups.
    """
    statement = instances(archive_id, *FILE_COLUMNS).where(InstanceTable.missing_since.is_(None))
    files: dict[str, list[IndexedFile]] = {group: [] for group in groups}
    for batch in in_batches(groups):
        for row in connection.execute(statement.where(InstanceTable.group_key.in_(batch))):
            files[row.group_key].append(IndexedFile(**row._mapping))
    return {group: sorted(found, key=lambda file: file.path) for group, found in files.items()}


def instances(archive_id: int, *columns: str) -> Any:
    """A SELECT of some columns of an archive's files, missing ones included."""
    return select(*(getattr(InstanceTable, name) for name in columns)).where(InstanceTable.archive_id == archive_id)
