"""The index of an archive: which series and files the last scan saw."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from vaeseg.db.session import Database
from vaeseg.db.tables import ArchiveTable, InstanceTable, SeriesTable
from vaeseg.db.upsert import in_batches, upsert


@dataclass(frozen=True, kw_only=True)
class SeriesRow:
    """A series found by a scan; sizes and spacings are None where it was refused before they were known."""

    series_key: str
    """Unique within the archive: the series UID, with ``-2`` and so on where one UID holds several volumes."""
    series_instance_uid: str
    study_instance_uid: str
    subject_key: str | None = None
    modality: str | None = None
    reason: str | None = None
    """A `records.Reason` when it was refused; None means readable."""
    detail: str | None = None
    warnings: tuple[str, ...] = ()
    n_instances: int
    n_files: int
    n_slices: int | None = None
    rows: int | None = None
    columns: int | None = None
    spacing_mm: tuple[float, float, float] | None = None
    """(k, j, i)."""
    voxel_volume_mm3: float | None = None
    fingerprint: str
    """64 hex digits over the instances; another one means that there is something new to segment."""


@dataclass(frozen=True, kw_only=True)
class FileRow:
    """A file found by a scan: in a series, or refused."""

    path: str
    """Relative to the archive's root."""
    size: int
    """Bytes."""
    mtime_ns: int
    sop_instance_uid: str | None = None
    series_key: str | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        if (self.series_key is None) == (self.reason is None):
            raise ValueError(f"a file is in a series or has a reason, not {self.series_key!r} and {self.reason!r}")


def ensure_archive(database: Database, root: str, name: str | None = None) -> int:
    """The archive with this root, made if it is new.

    Args:
        database: where.
        root: absolute path.
        name: of a new archive; by default one derived from the root that tells nothing of it.

    Returns:
        The archive's id.
    """
    chosen = name or f"archive-{hashlib.sha256(root.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    with database.write() as connection:
        found = connection.scalar(select(ArchiveTable.id).where(ArchiveTable.root == root))
        if found is not None:
            return found
        return _inserted_archive(connection, root, chosen)


def find_archive(database: Database, root: str) -> int | None:
    """Id of the archive with this root; None for one that was never scanned."""
    with database.read() as connection:
        return connection.scalar(select(ArchiveTable.id).where(ArchiveTable.root == root))


def record_scan(database: Database, archive_id: int, series: Sequence[SeriesRow], files: Iterable[FileRow]) -> None:
    """Make the index say what a scan found, in one transaction.

    Series are updated or added; those that are gone stay, with an older `last_seen_at`, because findings refer to
    them. The rows of files are replaced.

    Args:
        database: where.
        archive_id: from `ensure_archive`.
        series: every series found.
        files: every file found, each in one of `series` or with a reason; consumed once, in batches.

    Raises:
        ValueError: a file names a series that is not in `series`.
    """
    with database.write() as connection:
        _upsert_series(connection, archive_id, series, database)
        ids = _ids_by_key(connection, archive_id)
        connection.execute(delete(InstanceTable).where(InstanceTable.archive_id == archive_id))
        known = {row.series_key for row in series}
        for batch in in_batches(files):
            connection.execute(insert(InstanceTable), [_instance(archive_id, row, ids, known) for row in batch])


def _inserted_archive(connection: Connection, root: str, name: str) -> int:
    inserted = connection.execute(insert(ArchiveTable).values(root=root, name=name).returning(ArchiveTable.id))
    return inserted.scalar_one()


def _upsert_series(connection: Connection, archive_id: int, series: Sequence[SeriesRow], database: Database) -> None:
    now = database.now()
    for batch in in_batches(series):
        rows = [_series(archive_id, row) | {"first_seen_at": now, "last_seen_at": now} for row in batch]
        upsert(connection, SeriesTable, rows, key=("archive_id", "series_key"), keep=("first_seen_at",))


def _ids_by_key(connection: Connection, archive_id: int) -> dict[str, int]:
    found = connection.execute(
        select(SeriesTable.series_key, SeriesTable.id).where(SeriesTable.archive_id == archive_id)
    )
    return {row.series_key: row.id for row in found}


def _series(archive_id: int, row: SeriesRow) -> dict[str, Any]:
    values = asdict(row)
    spacing = values.pop("spacing_mm") or (None, None, None)
    return values | {
        "archive_id": archive_id,
        "verdict": "readable" if row.reason is None else "refused",
        "warnings": list(row.warnings),
        "spacing_k_mm": spacing[0],
        "spacing_j_mm": spacing[1],
        "spacing_i_mm": spacing[2],
    }


def _instance(archive_id: int, row: FileRow, ids: Mapping[str, int], known: set[str]) -> dict[str, Any]:
    if row.series_key is not None and row.series_key not in known:
        raise ValueError(f"a file belongs to series {row.series_key}, which the scan does not list")
    return {
        "archive_id": archive_id,
        "path": row.path,
        "size": row.size,
        "mtime_ns": row.mtime_ns,
        "sop_instance_uid": row.sop_instance_uid,
        "series_id": None if row.series_key is None else ids[row.series_key],
        "reason": row.reason,
    }
