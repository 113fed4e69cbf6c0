"""What had become of everything in an archive when a run ended: every series and every file in exactly one category."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from sqlalchemy import Connection, Row, Subquery, case, delete, func, insert, select

from vaeseg.db.drivers import run_not_found
from vaeseg.db.present_series import is_exclusion_by, is_there, is_work_of, last_reason
from vaeseg.db.session import Database
from vaeseg.db.tables import (
    ExclusionTable,
    InstanceTable,
    RunCoverageTable,
    RunTable,
    SeriesTable,
    WorkItemTable,
)
from vaeseg.db.upsert import in_batches
from vaeseg.records import FileCount

logger = logging.getLogger(__name__)

Counted = Literal["n_series", "n_files"]


@dataclass(frozen=True, kw_only=True)
class Scanned:
    """What a run knows of its archive beside the index."""

    n_files: int
    """Files that are there: listed, or known of a directory that could not be listed."""
    n_waiting: int = 0
    """Files that the scan found and left alone."""
    waiting_studies: Collection[str] = ()
    """Studies that still arrive: files of these that make no volume yet are waiting, and not refused."""
    rules_digest: str | None = None
    """Of the rules that the run followed, 64 hex digits."""


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """What had become of everything, counted and not written yet."""

    files: FileCount
    rows: tuple[Mapping[str, Any], ...]
    """Of `run_coverage`."""


class _Category(NamedTuple):
    category: str
    reason: str = ""


def count_coverage(database: Database, run_id: str, scanned: Scanned) -> Coverage:
    """Count what has become of everything in a run's archive: a minute of it where the archive is large.

    Reads only, so that the run can say that it lives meanwhile. Files found that are in no category, or the other way
    about, are an error in the log.

    Args:
        database: where.
        run_id: a run that has its archive for itself, whose index is up to date.
        scanned: what its scan found.

    Raises:
        RunNotFoundError: no such run.
        StoreError: the database fails.
    """
    counts = {name: Counter[_Category]() for name in get_args(Counted)}
    with database.read() as connection:
        run = connection.execute(select(RunTable.__table__).where(RunTable.id == run_id)).one_or_none()
        if run is None:
            raise run_not_found(run_id)
        _count_series(connection, run, scanned.rules_digest, counts)
        _count_waiting_series(connection, run, scanned.waiting_studies, counts)
        _count_other_files(connection, run, counts["n_files"])
    counts["n_files"][_Category("waiting")] += scanned.n_waiting
    files = _file_count(scanned.n_files, counts["n_files"])
    if files.unaccounted:
        accounted = files.found - files.unaccounted
        logger.error("run %s: its scan found %d files, and %d are accounted for", run_id, files.found, accounted)
    return Coverage(files=files, rows=_rows(run_id, counts))


def write_coverage(connection: Connection, run_id: str, coverage: Coverage) -> None:
    """Write the coverage of a run, in place of what an earlier attempt wrote."""
    connection.execute(delete(RunCoverageTable).where(RunCoverageTable.run_id == run_id))
    if coverage.rows:
        connection.execute(insert(RunCoverageTable), coverage.rows)


def _count_series(
    connection: Connection, run: Row[Any], rules_digest: str | None, counts: dict[str, Counter[_Category]]
) -> None:
    """All series that are there, with their files."""
    judged = series_by_category(run.archive_id, run.model_digest, run.config_digest, rules_digest)
    files = _files_by_series(run.archive_id)
    n_files = func.sum(func.coalesce(files.c.n_files, 0)).label("n_files")
    statement = (
        select(judged.c.category, judged.c.reason, func.count().label("n_series"), n_files)
        .join(files, files.c.series_id == judged.c.series_id, isouter=True)
        .group_by(judged.c.category, judged.c.reason)
    )
    for row in connection.execute(statement):
        for name, counter in counts.items():
            counter[_Category(row.category, row.reason)] += int(getattr(row, name))


def series_by_category(
    archive_id: int, model_digest: str | None, config_digest: str | None, rules_digest: str | None
) -> Subquery:
    """One row for each series that is there, as a model, a configuration and rules (None: no such) see it.

    What is done stays done, whatever rules came later; else rules come before failures. Columns: `series_id`,
    `category`, `reason`, `first_seen_at`.
    """
    is_refused, state = SeriesTable.verdict == "refused", WorkItemTable.state
    category = case(
        (is_refused, "refused"),
        (state == "segmented", "segmented"),
        (state == "skipped", "left_out_by_rule"),
        (ExclusionTable.rule.is_not(None), "left_out_by_rule"),
        (state.in_(("failed", "crashed")), state),
        else_="pending",
    )
    reason = case(
        (is_refused, SeriesTable.reason),
        (state == "segmented", ""),
        (state == "skipped", last_reason()),
        (ExclusionTable.rule.is_not(None), ExclusionTable.rule),
        (state.in_(("failed", "crashed")), last_reason()),
        else_="",
    )
    return (
        select(
            SeriesTable.id.label("series_id"),
            category.label("category"),
            func.coalesce(reason, "").label("reason"),
            SeriesTable.first_seen_at,
        )
        .select_from(SeriesTable)
        .join(WorkItemTable, is_work_of(model_digest, config_digest), isouter=True)
        .join(ExclusionTable, is_exclusion_by(rules_digest), isouter=True)
        .where(is_there(archive_id))
        .subquery()
    )


def _count_waiting_series(
    connection: Connection, run: Row[Any], studies: Collection[str], counts: dict[str, Counter[_Category]]
) -> None:
    """Move refused series of studies that still arrive to those that wait."""
    files = _files_by_series(run.archive_id)
    refused = (
        select(
            SeriesTable.reason,
            func.count().label("n_series"),
            func.sum(func.coalesce(files.c.n_files, 0)).label("n_files"),
        )
        .join(files, files.c.series_id == SeriesTable.id, isouter=True)
        .where(is_there(run.archive_id), SeriesTable.verdict == "refused")
        .group_by(SeriesTable.reason)
    )
    for batch in in_batches(sorted(studies)):
        for row in connection.execute(refused.where(SeriesTable.study_instance_uid.in_(batch))):
            for name, counter in counts.items():
                counter[_Category("refused", row.reason)] -= int(getattr(row, name))
                counter[_Category("waiting")] += int(getattr(row, name))


def _count_other_files(connection: Connection, run: Row[Any], n_files: Counter[_Category]) -> None:
    """Files of no series that is there: refused, or read and not judged yet."""
    in_series = (SeriesTable.id == InstanceTable.series_id) & SeriesTable.missing_since.is_(None)
    statement = (
        select(InstanceTable.reason, func.count())
        .join(SeriesTable, in_series, isouter=True)
        .where(InstanceTable.archive_id == run.archive_id, InstanceTable.missing_since.is_(None))
        .where(SeriesTable.id.is_(None))
        .group_by(InstanceTable.reason)
    )
    for reason, count in connection.execute(statement):
        n_files[_Category("refused", reason) if reason is not None else _Category("pending")] += count


def _files_by_series(archive_id: int) -> Subquery:
    return (
        select(InstanceTable.series_id, func.count().label("n_files"))
        .where(InstanceTable.archive_id == archive_id, InstanceTable.missing_since.is_(None))
        .where(InstanceTable.series_id.is_not(None))
        .group_by(InstanceTable.series_id)
        .subquery()
    )


def _rows(run_id: str, counts: dict[str, Counter[_Category]]) -> tuple[dict[str, Any], ...]:
    categories = sorted({category for counter in counts.values() for category, count in counter.items() if count})
    return tuple(
        {"run_id": run_id, **category._asdict(), **{name: counter[category] for name, counter in counts.items()}}
        for category in categories
    )


def _file_count(found: int, n_files: Counter[_Category]) -> FileCount:
    refused = {key.reason: count for key, count in sorted(n_files.items()) if key.category == "refused" and count}
    waiting = n_files[_Category("waiting")]
    return FileCount(
        found=found,
        in_series=n_files.total() - sum(refused.values()) - waiting,
        refused=sum(refused.values()),
        refused_by_reason=refused,
        waiting=waiting,
    )
