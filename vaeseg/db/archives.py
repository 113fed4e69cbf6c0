"""Archives: root directories that are scanned."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from vaeseg.db.drivers import check_archive_free
from vaeseg.db.events import account, add_event
from vaeseg.db.session import Database
from vaeseg.db.tables import ArchiveTable, InstanceTable, SeriesTable
from vaeseg.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A registered archive."""

    id: int
    name: str
    root: str
    """Absolute path."""
    label_root: str | None

    @property
    def is_registered(self) -> bool:
        """By `archive add`; others are the directories of submissions."""
        return self.name != _derived_name(self.root)


@dataclass(frozen=True, kw_only=True)
class IndexCounts:
    """What the index of an archive holds; series whose files are gone are not counted."""

    n_files: int
    n_files_missing: int
    """Were found once, and are gone."""
    n_readable: int
    """Series."""
    refused_by_reason: dict[str, int]
    """Series."""


def add_archive(database: Database, name: str, root: str, label_root: str | None = None) -> Archive:
    """Register an archive; a root that is known already, from a submission or before it was removed, keeps its index.

    Args:
        database: where.
        name: what people call it.
        root: absolute path.
        label_root: absolute path of a directory of labels.

    Raises:
        UsageError: the name or the root belongs to another archive.
    """
    with database.write() as connection:
        if _id(connection, (ArchiveTable.name == name) & (ArchiveTable.root != root)) is not None:
            raise UsageError(f"there is an archive {name} with another root: choose another name")
        known = connection.execute(select(ArchiveTable.__table__).where(ArchiveTable.root == root)).one_or_none()
        if known is not None and known.removed_at is None and known.name not in (name, _derived_name(root)):
            raise UsageError(f"archive {known.name} has this root already")
        archive_id = known.id if known is not None else _inserted(connection, root, name)
        values = {"name": name, "label_root": label_root, "removed_at": None}
        connection.execute(update(ArchiveTable).where(ArchiveTable.id == archive_id).values(values))
        add_event(connection, database, "archive_added", None, {"archive_id": archive_id}, actor=account())
    return Archive(id=archive_id, name=name, root=root, label_root=label_root)


def remove_archive(database: Database, name: str) -> None:
    """Scan an archive no longer; its index and findings stay, its name is free again.

    Raises:
        UsageError: there is none of that name.
        ArchiveBusyError: a run that is alive works on it.
    """
    archive = archive_named(database, name)
    values = {"name": f"{name}-removed-{archive.id}", "removed_at": database.now()}
    with database.write() as connection:
        check_archive_free(connection, database, archive.id)
        connection.execute(update(ArchiveTable).where(ArchiveTable.id == archive.id).values(values))
        add_event(connection, database, "archive_removed", None, {"archive_id": archive.id}, actor=account())


def ensure_archive(database: Database, root: str) -> int:
    """Id of the archive with this root; a new one gets a name that is derived from the root and tells nothing of it.

    Args:
        database: where.
        root: absolute path.
    """
    with database.write() as connection:
        found = _id(connection, ArchiveTable.root == root)
        return _inserted(connection, root, _derived_name(root)) if found is None else found


def overlapping(database: Database, root: str) -> list[str]:
    """Names of other archives whose root lies below this one, or this one below theirs: a series may be in both."""

    def is_below(path: str, other: str) -> bool:
        return path.startswith(f"{other.rstrip('/')}/")

    archives = list_archives(database)
    return [a.name for a in archives if is_below(a.root, root) or is_below(root, a.root)]


def find_archive(database: Database, root: str) -> int | None:
    """Id of the archive with this root; None for one that was never scanned."""
    with database.read() as connection:
        return _id(connection, ArchiveTable.root == root)


def archive_named(database: Database, name: str) -> Archive:
    """One archive that was not removed.

    Raises:
        UsageError: there is none of that name.
    """
    found = [archive for archive in list_archives(database) if archive.name == name]
    if not found:
        raise UsageError(f"there is no archive {name}: 'vaeseg-batch archive list' shows those there are")
    return found[0]


def list_archives(database: Database) -> list[Archive]:
    """Every archive that was not removed, by name."""
    present = select(ArchiveTable.__table__).where(ArchiveTable.removed_at.is_(None)).order_by(ArchiveTable.name)
    with database.read() as connection:
        return [_archive(row) for row in connection.execute(present)]


def archive_ids(database: Database) -> list[int]:
    """Of every archive, removed ones too, in order."""
    with database.read() as connection:
        return list(connection.scalars(select(ArchiveTable.id).order_by(ArchiveTable.id)))


def index_counts(database: Database, archive_id: int) -> IndexCounts:
    """What the index of an archive holds."""
    of_archive = InstanceTable.archive_id == archive_id
    by_reason = (
        select(SeriesTable.reason, func.count())
        .where(SeriesTable.archive_id == archive_id, SeriesTable.missing_since.is_(None))
        .group_by(SeriesTable.reason)
        .order_by(SeriesTable.reason)
    )
    with database.read() as connection:
        known = connection.scalar(select(func.count()).select_from(InstanceTable).where(of_archive)) or 0
        gone = connection.scalar(select(func.count(InstanceTable.missing_since)).where(of_archive)) or 0
        counts = connection.execute(by_reason).all()
    return IndexCounts(
        n_files=known - gone,
        n_files_missing=gone,
        n_readable=sum(count for reason, count in counts if reason is None),
        refused_by_reason={str(reason): count for reason, count in counts if reason is not None},
    )


def _id(connection: Connection, which: Any) -> int | None:
    return connection.scalar(select(ArchiveTable.id).where(which))


def _inserted(connection: Connection, root: str, name: str) -> int:
    inserted = connection.execute(insert(ArchiveTable).values(root=root, name=name).returning(ArchiveTable.id))
    return inserted.scalar_one()


def _derived_name(root: str) -> str:
    return f"archive-{hashlib.sha256(root.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def _archive(row: Row[Any]) -> Archive:
    return Archive(id=row.id, name=row.name, root=row.root, label_root=row.label_root)
