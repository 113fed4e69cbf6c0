"""What the ledger claims, in the form in which it can be compared with files: for `verify`, `gc` and
`erase`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from vaeseg.db.session import Database
from vaeseg.db.tables import FindingTable, LesionTable, RunTable, WorkItemTable
from vaeseg.records import PartFile

FETCHED = 1000
"""Rows that are in memory at once."""


@dataclass(frozen=True, kw_only=True)
class RecordedMask:
    """A mask file that a finding names, superseded ones too."""

    series_instance_uid: str
    uri: str
    sha256: str


def rows_of_part(database: Database, part: PartFile, columns: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """Some columns of the findings that were committed with a part, in no particular order."""
    selected = select(*(getattr(FindingTable, name) for name in columns))
    with database.read() as connection:
        found = connection.execute(selected.where(FindingTable.run_id == part.run_id, FindingTable.part == part.name))
        return [tuple(row) for row in found]


def findings_of_run(database: Database, run_id: str, columns: tuple[str, ...]) -> dict[str, list[tuple[Any, ...]]]:
    """Some columns of a run's findings by the part that they were committed with, in the order of its rows."""
    selected = select(FindingTable.part, *(getattr(FindingTable, name) for name in columns))
    found: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    with database.read() as connection:
        for part, *values in connection.execute(
            selected.where(FindingTable.run_id == run_id).order_by(FindingTable.id)
        ):
            found[part].append(tuple(values))
    return found


def lesions_of_part(database: Database, part: PartFile) -> list[tuple[Any, ...]]:
    """Series, number and volume in ml of the lesions that were committed with a part."""
    statement = (
        select(FindingTable.series_instance_uid, LesionTable.lesion_index, LesionTable.volume_ml)
        .join(FindingTable, FindingTable.id == LesionTable.finding_id)
        .where(FindingTable.run_id == part.run_id, FindingTable.part == part.name)
    )
    with database.read() as connection:
        return [tuple(row) for row in connection.execute(statement)]


def parts_of_findings(database: Database, run_id: str | None) -> set[tuple[str, str]]:
    """Run and part of every finding."""
    statement = _of_run(select(FindingTable.run_id, FindingTable.part).distinct(), run_id)
    with database.read() as connection:
        return {(row.run_id, row.part) for row in connection.execute(statement)}


def recorded_masks(database: Database, run_id: str | None) -> Iterator[RecordedMask]:
    """Every mask that a finding names; read in batches."""
    statement = _of_run(
        select(FindingTable.id, FindingTable.series_instance_uid, FindingTable.mask_uri, FindingTable.mask_sha256)
        .where(FindingTable.mask_uri.is_not(None))
        .order_by(FindingTable.id)
        .limit(FETCHED),
        run_id,
    )
    last = 0
    while True:
        with database.read() as connection:
            rows = connection.execute(statement.where(FindingTable.id > last)).all()
        if not rows:
            return
        last = rows[-1].id
        for row in rows:
            yield RecordedMask(series_instance_uid=row.series_instance_uid, uri=row.mask_uri, sha256=row.mask_sha256)


def items_at_odds(database: Database, run_id: str | None) -> list[tuple[int, str, str | None]]:
    """Items of work whose state is not the outcome of their newest finding: id, state, outcome."""
    newest = (
        select(FindingTable.work_item_id, func.max(FindingTable.id).label("id"))
        .group_by(FindingTable.work_item_id)
        .subquery()
    )
    outcome = (
        select(FindingTable.work_item_id, FindingTable.outcome).join(newest, newest.c.id == FindingTable.id).subquery()
    )
    statement = (
        select(WorkItemTable.id, WorkItemTable.state, outcome.c.outcome)
        .join(outcome, outcome.c.work_item_id == WorkItemTable.id, isouter=True)
        .where(WorkItemTable.state != "pending", WorkItemTable.state.is_distinct_from(outcome.c.outcome))
        .order_by(WorkItemTable.id)
    )
    if run_id is not None:
        statement = statement.where(WorkItemTable.run_id == run_id)
    with database.read() as connection:
        return [tuple(row) for row in connection.execute(statement)]


def running_runs(database: Database) -> list[str]:
    """Ids of the runs whose row says that they are running, alive or not."""
    with database.read() as connection:
        return list(connection.scalars(select(RunTable.id).where(RunTable.status == "running").order_by(RunTable.id)))


def _of_run(statement: Any, run_id: str | None) -> Any:
    return statement if run_id is None else statement.where(FindingTable.run_id == run_id)
