"""How many series of each archive are in which category, at this moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, select

from vaeseg.canonical import digest
from vaeseg.db.coverage import series_by_category
from vaeseg.db.present_series import is_there
from vaeseg.db.tables import COVERAGE, ArchiveTable, FindingTable, ModelTable, RunTable, SeriesTable
from vaeseg.rules.parsing import parse_rules

SERIES_CATEGORIES = tuple(category for category in COVERAGE if category != "waiting")
"""A series that waits for the rest of its study is refused or pending until somebody scans."""
UNMEASURED = ("refused", "failed", "crashed")


@dataclass(frozen=True, kw_only=True)
class ArchiveSeries:
    """The series of an archive that are there, as its newest segmenting run sees them: its model and configuration.

    Where there was no such run, none is segmented and every readable one is pending.
    """

    archive: str
    by_category: Mapping[str, int]
    """Every one of `SERIES_CATEGORIES`; they add up to the series found."""
    unmeasured: Mapping[tuple[str, str], int]
    """Category (`UNMEASURED`) and reason to series."""
    oldest_pending_at: datetime | None
    """When the pending series that was found first was found; None where none is pending."""
    n_large: int
    """Current findings of the model above the threshold."""


def archive_series(connection: Connection, volume_threshold_ml: float) -> tuple[ArchiveSeries, ...]:
    """Every archive that was not removed, by name."""
    return tuple(_series_of(connection, row, volume_threshold_ml) for row in _archives(connection))


def _archives(connection: Connection) -> list[Row[Any]]:
    """Archives with model, configuration and rules of their newest segmenting run; None where there was none."""
    columns = (RunTable.archive_id, RunTable.model_digest, RunTable.config_digest, RunTable.config)
    newest_first = (RunTable.started_at.desc(), RunTable.id.desc())
    place = func.row_number().over(partition_by=RunTable.archive_id, order_by=newest_first).label("place")
    runs = (
        select(*columns, ModelTable.name.label("model"), place)
        .join(ModelTable, ModelTable.digest == RunTable.model_digest)
        .where(RunTable.kind == "segment")
        .subquery()
    )
    statement = (
        select(
            ArchiveTable.id, ArchiveTable.name, runs.c.model_digest, runs.c.config_digest, runs.c.config, runs.c.model
        )
        .join(runs, (runs.c.archive_id == ArchiveTable.id) & (runs.c.place == 1), isouter=True)
        .where(ArchiveTable.removed_at.is_(None))
        .order_by(ArchiveTable.name)
    )
    return list(connection.execute(statement))


def _series_of(connection: Connection, archive: Row[Any], volume_threshold_ml: float) -> ArchiveSeries:
    judged = series_by_category(
        archive.id, archive.model_digest, archive.config_digest, recorded_rules_digest(archive.config)
    )
    statement = select(
        judged.c.category,
        judged.c.reason,
        func.count().label("n_series"),
        func.min(judged.c.first_seen_at).label("first"),
    ).group_by(judged.c.category, judged.c.reason)
    rows = connection.execute(statement).all()
    by_category = Counter(dict.fromkeys(SERIES_CATEGORIES, 0))
    for row in rows:
        by_category[row.category] += row.n_series
    return ArchiveSeries(
        archive=archive.name,
        by_category=by_category,
        unmeasured={(row.category, row.reason): row.n_series for row in rows if row.category in UNMEASURED},
        oldest_pending_at=min((row.first for row in rows if row.category == "pending"), default=None),
        n_large=_n_large(connection, archive, volume_threshold_ml),
    )


def recorded_rules_digest(config: Mapping[str, Any] | None) -> str | None:
    """By which decisions are known, of a run's configuration.

    None without a run, without rules, or with rules of another version, which nobody can digest.
    """
    rules = (config or {}).get("rules")
    if rules is None:
        return None
    try:
        return digest(parse_rules(rules))
    except ValueError:
        return None


def _n_large(connection: Connection, archive: Row[Any], volume_threshold_ml: float) -> int:
    is_large = FindingTable.superseded_at.is_(None) & (FindingTable.tumour_volume_ml > volume_threshold_ml)
    statement = (
        select(func.count())
        .select_from(FindingTable)
        .join(SeriesTable, SeriesTable.id == FindingTable.series_id)
        .where(is_there(archive.id), FindingTable.model == archive.model, is_large)
    )
    return connection.scalar(statement) or 0
