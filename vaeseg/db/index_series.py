"""The index of an archive: the series that its files make, and what became of every file."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, delete, exists, func, or_, select, update

from vaeseg.db.present_series import is_readable, is_there
from vaeseg.db.session import Database
from vaeseg.db.tables import ChangedGroupTable, ExclusionTable, FindingTable, InstanceTable, SeriesTable
from vaeseg.db.upsert import in_batches, upsert
from vaeseg.records import Reason


@dataclass(frozen=True, kw_only=True)
class SeriesRow:
    """A series found by a scan; sizes and spacings are None where it was refused before they were known."""

    series_key: str
    """Unique within the archive: the series UID, with ``-2`` and so on where one UID holds several volumes."""
    series_instance_uid: str
    study_instance_uid: str
    subject_key: str | None = None
    modality: str | None = None
    study_date: date | None = None
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
class JudgedSeries:
    """A series of a group, and its files."""

    row: SeriesRow
    """Its key is the series UID; `record_groups` numbers those that share one."""
    paths: tuple[str, ...]


class SeriesName(NamedTuple):
    """A readable series, as far as plans and labels need it."""

    series_key: str
    series_instance_uid: str
    study_instance_uid: str
    volume_path: str | None
    """Of a NIfTI volume; None for DICOM."""


def forget_emptied_groups(database: Database, archive_id: int) -> None:
    """Mark the series of changed groups without files as missing; call it before `changed_groups`.

    So that a NIfTI volume that was moved finds the series that it was (`record_groups`).
    """
    with database.write() as connection:
        has_files = exists().where(  # NOT IN would be a loop in a loop on PostgreSQL
            InstanceTable.archive_id == archive_id,
            InstanceTable.group_key == ChangedGroupTable.group_key,
            InstanceTable.missing_since.is_(None),
        )
        emptied = (ChangedGroupTable.archive_id == archive_id) & ~has_files
        groups = connection.scalars(select(ChangedGroupTable.group_key).where(emptied)).all()
        _series_missing(connection, database, archive_id, groups, [])
        _judged(connection, archive_id, groups)


def record_groups(database: Database, archive_id: int, judged: Mapping[str, Sequence[JudgedSeries]]) -> None:
    """Record the series of groups, in one transaction; series of theirs that are no more are marked missing.

    A NIfTI volume that was moved (no series has its UID, one that is missing has its content) goes on under the
    identifiers that it had.

    Args:
        database: where.
        archive_id: whose.
        judged: group to its series.
    """
    with database.write() as connection:
        named = _held_back(connection, archive_id, _with_keys(connection, archive_id, judged))
        now = database.now()
        rows = [
            _series(archive_id, group, series.row) | {"first_seen_at": now, "judged_at": now, "missing_since": None}
            for group, all_series in named.items()
            for series in all_series
        ]
        for batch in in_batches(rows):
            upsert(connection, SeriesTable, batch, key=("archive_id", "series_key"), keep=("first_seen_at",))
        keys = [series.row.series_key for all_series in named.values() for series in all_series]
        _series_missing(connection, database, archive_id, list(judged), keys)
        _assign(connection, archive_id, named)
        _forget_what_headers_said(connection, archive_id, [s.row for all_series in named.values() for s in all_series])
        _judged(connection, archive_id, list(judged))


def readable_series(database: Database, archive_id: int) -> list[SeriesName]:
    """The readable series of an archive whose files are there, in order of key."""
    of_volume = (InstanceTable.series_id == SeriesTable.id) & SeriesTable.group_key.not_like("%/%")
    statement = (
        select(
            SeriesTable.series_key, SeriesTable.series_instance_uid, SeriesTable.study_instance_uid, InstanceTable.path
        )
        .join(InstanceTable, of_volume & InstanceTable.missing_since.is_(None), isouter=True)
        .where(is_readable(archive_id))
        .order_by(SeriesTable.series_key)
    )
    with database.read() as connection:
        return [SeriesName(*row) for row in connection.execute(statement)]


def studies_of_refused_series(database: Database, archive_id: int) -> list[str]:
    """Study UID of each series whose files are there and make no volume."""
    statement = select(SeriesTable.study_instance_uid).where(is_there(archive_id), SeriesTable.verdict == "refused")
    with database.read() as connection:
        return list(connection.scalars(statement))


def refused_files(database: Database, archive_id: int, suffixes: Iterable[str]) -> list[str]:
    """Files with one of some suffixes, in lower case, that are there and in no readable series."""
    in_series = select(SeriesTable.id).where(
        SeriesTable.id == InstanceTable.series_id, SeriesTable.verdict == "readable"
    )
    statement = (
        select(InstanceTable.path)
        .where(InstanceTable.archive_id == archive_id, InstanceTable.missing_since.is_(None), ~exists(in_series))
        .where(or_(*(func.lower(InstanceTable.path).endswith(suffix) for suffix in suffixes)))
    )
    with database.read() as connection:
        return list(connection.scalars(statement))


def _with_keys(
    connection: Connection, archive_id: int, judged: Mapping[str, Sequence[JudgedSeries]]
) -> dict[str, list[JudgedSeries]]:
    """Number the series that share a UID, readable ones first, leaving other groups theirs."""
    rows = [series.row for all_series in judged.values() for series in all_series]
    owner = _owners(connection, archive_id, rows)
    away = _missing_volumes(connection, archive_id, sorted({row.fingerprint for row in rows}))
    named: dict[str, list[JudgedSeries]] = {group: [] for group in judged}
    in_order = [(group, series) for group, all_series in judged.items() for series in all_series]
    for group, series in sorted(in_order, key=lambda pair: pair[1].row.reason is not None):
        own = {series.row.series_key for series in named[group]}
        is_new_volume = "/" not in group and series.row.series_instance_uid not in owner
        moved = away.pop(series.row.fingerprint, None) if is_new_volume else None
        identity = moved or {"series_key": _free_key(series.row.series_instance_uid, group, owner, own)}
        row = replace(series.row, **identity)
        owner[row.series_key] = group
        named[group].append(replace(series, row=row))
    return named


def _owners(connection: Connection, archive_id: int, rows: Sequence[SeriesRow]) -> dict[str, str]:
    """Series key to group, of all series with a UID of these; "" where one of these is it, in another study."""
    columns = ("series_key", "group_key", "series_instance_uid", "subject_key", "fingerprint", "missing_since")
    statement = select(*(getattr(SeriesTable, name) for name in columns)).where(SeriesTable.archive_id == archive_id)
    known = {(row.series_instance_uid, what) for row in rows for what in (row.subject_key, row.fingerprint)}
    return {
        row.series_key: "" if _is_restudied(row, known) else row.group_key
        for batch in in_batches(sorted({row.series_instance_uid for row in rows}))
        for row in connection.execute(statement.where(SeriesTable.series_instance_uid.in_(batch)))
    }


def _is_restudied(row: Row[Any], known: Collection[tuple[str, str | None]]) -> bool:
    """Whether a DICOM series that is gone is there under another study: one that was merged, split or corrected.

    By its UID, and by its patient or content: there are archives in which several patients share a UID.
    """
    if row.missing_since is None or "/" not in row.group_key:
        return False
    uid = row.series_instance_uid
    return (uid, row.fingerprint) in known or (row.subject_key is not None and (uid, row.subject_key) in known)


def _held_back(
    connection: Connection, archive_id: int, named: Mapping[str, Sequence[JudgedSeries]]
) -> dict[str, list[JudgedSeries]]:
    """With those refused that only lost slices since they were segmented: housekeeping is no reason to measure anew."""
    rows = {series.row.series_key: series.row for all_series in named.values() for series in all_series}
    more = _segmented_with_more(connection, archive_id, rows)
    return {
        group: [
            replace(series, row=_vanished(series.row, more[series.row.series_key][1]))
            if series.row.series_key in more
            and _are_all_known(connection, archive_id, more[series.row.series_key][0], series.paths)
            else series
            for series in all_series
        ]
        for group, all_series in named.items()
    }


def _segmented_with_more(
    connection: Connection, archive_id: int, rows: Mapping[str, SeriesRow]
) -> dict[str, tuple[int, int]]:
    """Key to id and number of slices of a current finding, of readable series that have fewer now."""
    statement = (
        select(SeriesTable.series_key, SeriesTable.id, func.max(FindingTable.n_slices))
        .join(FindingTable, FindingTable.series_id == SeriesTable.id)
        .where(SeriesTable.archive_id == archive_id, FindingTable.superseded_at.is_(None))
        .where(FindingTable.outcome == "segmented")
        .group_by(SeriesTable.series_key, SeriesTable.id)
    )
    n_slices_now = {key: row.n_slices or 0 for key, row in rows.items() if row.reason is None}
    return {
        key: (series_id, n_slices or 0)
        for batch in in_batches(n_slices_now)
        for key, series_id, n_slices in connection.execute(statement.where(SeriesTable.series_key.in_(batch)))
        if (n_slices or 0) > n_slices_now[key]
    }


def _are_all_known(connection: Connection, archive_id: int, series_id: int, paths: Collection[str]) -> bool:
    """Whether all of these files were in the series before, and none was read anew."""
    known = select(func.count()).where(InstanceTable.archive_id == archive_id, InstanceTable.series_id == series_id)
    return sum(connection.scalar(known.where(InstanceTable.path.in_(b))) or 0 for b in in_batches(paths)) == len(paths)


def _vanished(row: SeriesRow, n_before: int) -> SeriesRow:
    detail = f"{row.n_slices} slices are left of the {n_before} that were segmented, and no file is new"
    return replace(row, reason=str(Reason.SLICES_VANISHED), detail=detail)


def _missing_volumes(connection: Connection, archive_id: int, fingerprints: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Fingerprint to the identifiers of a NIfTI volume that had it, and whose file is gone."""
    names = ("series_key", "series_instance_uid", "study_instance_uid", "subject_key")
    statement = (
        select(SeriesTable.fingerprint, *(getattr(SeriesTable, name) for name in names))
        .where(SeriesTable.archive_id == archive_id, SeriesTable.missing_since.is_not(None))
        .where(SeriesTable.group_key.not_like("%/%"))
        .order_by(SeriesTable.id.desc())
    )
    return {
        row.fingerprint: {name: getattr(row, name) for name in names}
        for batch in in_batches(fingerprints)
        for row in connection.execute(statement.where(SeriesTable.fingerprint.in_(batch)))
    }


def _free_key(uid: str, group: str, owner: Mapping[str, str], own: Collection[str]) -> str:
    """The first that neither this group has used up nor another one has; "" owns what no scan has found again."""
    number, key = 1, uid
    while key in own or owner.get(key, "") not in (group, ""):
        number += 1
        key = f"{uid}-{number}"
    return key


def _series(archive_id: int, group: str, row: SeriesRow) -> dict[str, Any]:
    values = asdict(row)
    spacing = values.pop("spacing_mm") or (None, None, None)
    return values | {
        "archive_id": archive_id,
        "group_key": group,
        "verdict": "readable" if row.reason is None else "refused",
        "warnings": list(row.warnings),
        "spacing_k_mm": spacing[0],
        "spacing_j_mm": spacing[1],
        "spacing_i_mm": spacing[2],
    }


def _series_missing(
    connection: Connection, database: Database, archive_id: int, groups: Sequence[str], except_keys: Sequence[str]
) -> None:
    """Mark the series of some groups as missing, except those that were just recorded."""
    present = select(SeriesTable.id, SeriesTable.series_key).where(
        SeriesTable.archive_id == archive_id, SeriesTable.missing_since.is_(None)
    )
    kept = set(except_keys)
    gone = [
        series_id
        for batch in in_batches(groups)
        for series_id, key in connection.execute(present.where(SeriesTable.group_key.in_(batch)))
        if key not in kept
    ]
    for batch in in_batches(gone):
        connection.execute(update(SeriesTable).where(SeriesTable.id.in_(batch)).values(missing_since=database.now()))


def _ids(connection: Connection, archive_id: int, keys: Sequence[str]) -> dict[str, int]:
    statement = select(SeriesTable.series_key, SeriesTable.id).where(SeriesTable.archive_id == archive_id)
    return {
        key: series_id
        for batch in in_batches(keys)
        for key, series_id in connection.execute(statement.where(SeriesTable.series_key.in_(batch)))
    }


def _assign(connection: Connection, archive_id: int, named: Mapping[str, Sequence[JudgedSeries]]) -> None:
    """Say of every file in which series it is; nearly every group is one series, and such go by the batch."""
    only_series = (
        select(SeriesTable.id)
        .where(
            SeriesTable.archive_id == archive_id,
            SeriesTable.group_key == InstanceTable.group_key,
            SeriesTable.missing_since.is_(None),
        )
        .scalar_subquery()
    )
    of_archive = update(InstanceTable).where(InstanceTable.archive_id == archive_id)
    for batch in in_batches(group for group, all_series in named.items() if len(all_series) == 1):
        connection.execute(of_archive.where(InstanceTable.group_key.in_(batch)).values(series_id=only_series))
    several = [series for all_series in named.values() if len(all_series) > 1 for series in all_series]
    ids = _ids(connection, archive_id, [series.row.series_key for series in several])
    for series in several:
        for batch in in_batches(series.paths):
            here = of_archive.where(InstanceTable.path.in_(batch))
            connection.execute(here.values(series_id=ids[series.row.series_key]))


def _forget_what_headers_said(connection: Connection, archive_id: int, rows: Sequence[SeriesRow]) -> None:
    """Of series judged again: rules ask headers of their studies once more, in which one may have been preferred to
    others, and findings name the patient and study of now.

    Slices of several patients are nobody's, and what was found before is whose it was.
    """
    of_archive = select(SeriesTable.id).where(SeriesTable.archive_id == archive_id)
    for studies in in_batches(sorted({row.study_instance_uid for row in rows})):
        of_studies = of_archive.where(SeriesTable.study_instance_uid.in_(studies))
        connection.execute(delete(ExclusionTable).where(ExclusionTable.series_id.in_(of_studies)))
    keys = [row.series_key for row in rows if row.reason != Reason.SEVERAL_PATIENTS]
    for batch in in_batches(_ids(connection, archive_id, keys).values()):
        for name in ("subject_key", "study_instance_uid"):
            now = select(getattr(SeriesTable, name)).where(SeriesTable.id == FindingTable.series_id).scalar_subquery()
            is_other = FindingTable.series_id.in_(batch) & getattr(FindingTable, name).is_distinct_from(now)
            connection.execute(update(FindingTable).where(is_other).values({name: now}))


def _judged(connection: Connection, archive_id: int, groups: Sequence[str]) -> None:
    for batch in in_batches(groups):
        which = (ChangedGroupTable.archive_id == archive_id) & ChangedGroupTable.group_key.in_(batch)
        connection.execute(delete(ChangedGroupTable).where(which))
