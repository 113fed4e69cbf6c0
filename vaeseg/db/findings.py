"""Findings: recorded a group at a time, asked for in any order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, insert, select, update

from vaeseg.db.archives import archive_named
from vaeseg.db.drivers import run_not_found
from vaeseg.db.session import Database
from vaeseg.db.tables import (
    ArchiveTable,
    FindingTable,
    LesionTable,
    ModelTable,
    PartTable,
    RunTable,
    SeriesTable,
    WorkItemTable,
)
from vaeseg.db.upsert import in_batches
from vaeseg.db.views import LATEST_FINDINGS
from vaeseg.db.work import DONE, LEFT_OUT, RunKey, WorkItem
from vaeseg.errors import StoreError, UsageError
from vaeseg.records import OUTCOMES, LesionRecord, PartFile


@dataclass(frozen=True, kw_only=True)
class FindingRow:
    """The result for one series; what was not measured is None and has a reason."""

    run_id: str
    series_instance_uid: str
    study_instance_uid: str
    subject_key: str | None
    model: str
    outcome: str
    reason: str | None = None
    detail: str | None = None
    warnings: tuple[str, ...] = ()
    n_slices: int | None = None
    tumour_volume_ml: float | None = None
    lesion_count: int | None = None
    largest_lesion_ml: float | None = None
    iou: float | None = None
    dice: float | None = None
    iou_model_grid: float | None = None
    dice_model_grid: float | None = None
    label_reason: str | None = None
    read_seconds: float | None = None
    segment_seconds: float | None = None
    measure_seconds: float | None = None
    mask_uri: str | None = None
    mask_sha256: str | None = None
    created_at: datetime
    superseded_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class ListedFinding(FindingRow):
    """A finding, and where its series lies."""

    archive: str
    """Name. One series in two archives has a finding in each, and all else of these may be the same."""
    series_key: str
    """Which of the volumes that share a series UID."""


@dataclass(frozen=True, kw_only=True)
class NewFinding:
    """A finding on its way into SQL."""

    item: WorkItem
    row: FindingRow
    lesions: tuple[LesionRecord, ...] = ()


ORDER_COLUMNS = {
    "created_at": True,
    "dice": True,
    "iou": True,
    "largest_lesion_ml": True,
    "lesion_count": True,
    "measure_seconds": True,
    "model": False,
    "n_slices": True,
    "outcome": False,
    "read_seconds": True,
    "reason": False,
    "run_id": False,
    "segment_seconds": True,
    "series_instance_uid": False,
    "study_instance_uid": False,
    "subject_key": False,
    "tumour_volume_ml": True,
}
"""Columns that findings can be ordered by; True where the largest comes first."""


def record_group(database: Database, run: RunKey, findings: Sequence[NewFinding], parts: Sequence[PartFile]) -> None:
    """Commit findings, their lesions, their part and the state of their work in one transaction.

    Earlier current findings of the same series and model name are marked superseded, save segmented ones of the files
    on which a new one failed or crashed: then that one is superseded at once.

    Args:
        database: where.
        run: whose.
        findings: at most one for each series.
        parts: the staged files that hold the same rows, all of one name.

    Raises:
        StoreError: another run has finished one of the series meanwhile, or the database fails.
    """
    now = database.now()
    part = parts[0].name
    with database.write() as connection:
        _check_open(connection, findings)
        placed = _placed(connection, run.model, findings, now)
        _supersede(connection, run.model, [new for new in placed if new.row.superseded_at is None], now)
        _insert_findings(connection, run, placed, part)
        _close_items(connection, run, findings, now)
        rows = [asdict(file) | {"published": False, "created_at": now} for file in parts]
        connection.execute(insert(PartTable), rows)


def open_items(database: Database, items: Sequence[WorkItem]) -> set[int]:
    """Ids of the items that are not done yet."""
    with database.read() as connection:
        return {item.work_item_id for item in items} - _done(connection, items)


@dataclass(frozen=True, kw_only=True)
class FindingFilter:
    """Which findings are asked for; None asks for any."""

    run_id: str | None = None
    """Findings of this run, superseded ones included; None for the latest of every series and model."""
    archive: str | None = None
    """Name."""
    model: str | None = None
    """Name."""
    outcome: str | None = None
    subject_key: str | None = None
    since: datetime | None = None
    """Made at this moment or later."""
    until: datetime | None = None
    """Made before this moment."""
    min_volume_ml: float | None = None
    """With at least this tumour volume."""


def query_findings(
    database: Database, wanted: FindingFilter | None = None, *, order_by: str = "created_at", limit: int | None = None
) -> list[ListedFinding]:
    """Findings of one run, or the latest of every series and model.

    Args:
        database: where.
        wanted: which; all if None.
        order_by: a key of `ORDER_COLUMNS`; numbers and times from the largest, text from A, NULL last.
        limit: at most this many.

    Raises:
        RunNotFoundError: no such run.
        UsageError: no such archive, model or subject.
        ValueError: a column that cannot be ordered by.
    """
    wanted = wanted or FindingFilter()
    if order_by not in ORDER_COLUMNS:
        raise ValueError(f"cannot order by {order_by}, only by {', '.join(ORDER_COLUMNS)}")
    archive_id = archive_named(database, wanted.archive).id if wanted.archive is not None else None
    with database.read() as connection:
        if wanted.run_id is not None:
            _check_run(connection, wanted.run_id)
        if wanted.model is not None:
            _check_model(connection, wanted.model)
        if wanted.subject_key is not None:
            check_subject(connection, wanted.subject_key)
        rows = connection.execute(_query(wanted, archive_id, order_by).limit(limit)).all()
    return [_finding(row) for row in rows]


def check_subject(connection: Connection, subject_key: str) -> None:
    """Refuse a key that nobody has.

    Raises:
        UsageError: no such subject.
    """
    for table in (SeriesTable, FindingTable):
        if connection.scalar(select(func.count()).select_from(table).where(table.subject_key == subject_key)):
            return
    raise UsageError(f"no subject {subject_key} in this store: 'vaeseg-batch findings --json' shows the subject keys")


def nothing_by(whose: str, model: str, models: Sequence[str]) -> UsageError:
    """The one sentence for a model by which there is nothing, which names those by which there is something."""
    return UsageError(f"{whose} has nothing segmented by {model}, only by {', '.join(models) or 'none'}")


def series_with_outcome(database: Database, run_id: str, outcomes: Sequence[str]) -> set[str]:
    """Keys of the series that a run ended with one of some outcomes.

    Raises:
        RunNotFoundError: no such run.
    """
    with database.read() as connection:
        _check_run(connection, run_id)
        statement = (
            select(SeriesTable.series_key)
            .join(FindingTable, FindingTable.series_id == SeriesTable.id)
            .where(FindingTable.run_id == run_id, FindingTable.outcome.in_(outcomes))
        )
        return set(connection.scalars(statement))


def _done(connection: Connection, items: Sequence[WorkItem]) -> set[int]:
    done: set[int] = set()
    for batch in in_batches([item.work_item_id for item in items]):
        wanted = select(WorkItemTable.id).where(WorkItemTable.id.in_(batch), WorkItemTable.state.in_(DONE))
        done |= set(connection.scalars(wanted))
    return done


def _check_open(connection: Connection, findings: Sequence[NewFinding]) -> None:
    """Locks the items first, so that of two runs that commit the same series the second sees the first."""
    for batch in in_batches([new.item.work_item_id for new in findings]):
        connection.execute(select(WorkItemTable.id).where(WorkItemTable.id.in_(batch)).with_for_update()).all()
    done = _done(connection, [new.item for new in findings])
    if done:
        uid = next(new.row.series_instance_uid for new in findings if new.item.work_item_id in done)
        raise StoreError(f"series {uid} was finished by another run meanwhile: do not run two at once")


def _placed(connection: Connection, model: str, findings: Sequence[NewFinding], now: datetime) -> list[NewFinding]:
    """With those superseded already that failed on files that are measured: a bad night takes no measurement away."""
    failed = [new for new in findings if new.row.outcome in LEFT_OUT]
    measured = _measured(connection, model, [new.item.series_id for new in failed])
    in_vain = {new.item.series_id for new in failed if (new.item.series_id, new.item.fingerprint) in measured}
    return [
        replace(new, row=replace(new.row, superseded_at=now)) if new.item.series_id in in_vain else new
        for new in findings
    ]


def _measured(connection: Connection, model: str, series_ids: Sequence[int]) -> set[tuple[int, str]]:
    """Series and fingerprint of the current findings that are segmented."""
    segmented = select(FindingTable.series_id, FindingTable.fingerprint).where(FindingTable.outcome == "segmented")
    return {
        (series_id, fingerprint)
        for batch in in_batches(series_ids)
        for series_id, fingerprint in connection.execute(segmented.where(_is_current(batch, model)))
    }


def _supersede(connection: Connection, model: str, findings: Sequence[NewFinding], now: datetime) -> None:
    for batch in in_batches([new.item.series_id for new in findings]):
        connection.execute(update(FindingTable).where(_is_current(batch, model)).values(superseded_at=now))


def _is_current(series_ids: Sequence[int], model: str) -> ColumnElement[bool]:
    return FindingTable.series_id.in_(series_ids) & (FindingTable.model == model) & FindingTable.superseded_at.is_(None)


def _insert_findings(connection: Connection, run: RunKey, findings: Sequence[NewFinding], part: str) -> None:
    connection.execute(insert(FindingTable), [_values(run, new, part) for new in findings])
    of_part = (FindingTable.run_id == run.run_id) & (FindingTable.part == part)
    inserted = connection.execute(select(FindingTable.work_item_id, FindingTable.id).where(of_part))
    finding_ids = {row.work_item_id: row.id for row in inserted}
    lesions = [_lesion_values(finding_ids[new.item.work_item_id], lesion) for new in findings for lesion in new.lesions]
    if lesions:
        connection.execute(insert(LesionTable), lesions)


def _close_items(connection: Connection, run: RunKey, findings: Sequence[NewFinding], now: datetime) -> None:
    for outcome in OUTCOMES:
        of_outcome = [new.item.work_item_id for new in findings if new.row.outcome == outcome]
        values = {"state": outcome, "run_id": run.run_id, "updated_at": now}
        for batch in in_batches(of_outcome):
            connection.execute(update(WorkItemTable).where(WorkItemTable.id.in_(batch)).values(values))


def _values(run: RunKey, new: NewFinding, part: str) -> dict[str, Any]:
    return asdict(new.row) | {
        "work_item_id": new.item.work_item_id,
        "series_id": new.item.series_id,
        "model_digest": run.model_digest,
        "fingerprint": new.item.fingerprint,
        "warnings": list(new.row.warnings),
        "part": part,
    }


def _lesion_values(finding_id: int, lesion: LesionRecord) -> dict[str, Any]:
    return {"finding_id": finding_id, **lesion_columns(lesion)}


def lesion_columns(lesion: LesionRecord) -> dict[str, Any]:
    """A lesion with one column for each coordinate, as SQL and Parquet have it."""
    values = asdict(lesion)
    x, y, z = values.pop("centroid_lps_mm")
    return values | {"centroid_x_lps_mm": x, "centroid_y_lps_mm": y, "centroid_z_lps_mm": z}


def _check_run(connection: Connection, run_id: str) -> None:
    if connection.scalar(select(func.count()).select_from(RunTable).where(RunTable.id == run_id)) == 0:
        raise run_not_found(run_id)


def _check_model(connection: Connection, model: str) -> None:
    models = connection.scalars(select(ModelTable.name).distinct().order_by(ModelTable.name)).all()
    if model not in models:
        raise nothing_by("this store", model, models)


def _query(wanted: FindingFilter, archive_id: int | None, order_by: str) -> Select[Any]:
    table = LATEST_FINDINGS if wanted.run_id is None else FindingTable.__table__
    archive = LATEST_FINDINGS.c.archive if wanted.run_id is None else ArchiveTable.name.label("archive")
    of_archive = select(SeriesTable.id).where(SeriesTable.archive_id == archive_id)
    conditions: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
        (wanted.run_id, table.c.run_id.__eq__),
        (archive_id, lambda _: table.c.series_id.in_(of_archive)),
        (wanted.model, table.c.model.__eq__),
        (wanted.outcome, table.c.outcome.__eq__),
        (wanted.subject_key, table.c.subject_key.__eq__),
        (wanted.since, table.c.created_at.__ge__),
        (wanted.until, table.c.created_at.__lt__),
        (wanted.min_volume_ml, table.c.tumour_volume_ml.__ge__),
    )
    column = table.c[order_by]
    ordered = column.desc() if ORDER_COLUMNS[order_by] else column.asc()
    columns = (*(table.c[field.name] for field in fields(FindingRow)), archive, SeriesTable.series_key)
    statement = select(*columns).select_from(table).join(SeriesTable, SeriesTable.id == table.c.series_id)
    if wanted.run_id is not None:
        statement = statement.join(ArchiveTable)
    statement = statement.where(*(condition(value) for value, condition in conditions if value is not None))
    return statement.order_by(ordered.nulls_last(), table.c.id)


def _finding(row: Any) -> ListedFinding:
    values = dict(row._mapping)
    return ListedFinding(**{**values, "warnings": tuple(values["warnings"])})
