"""Conditions on series as the index has them now: which are there, and what was said of them in this state."""

from __future__ import annotations

from sqlalchemy import ColumnElement, ScalarSelect, select

from vaeseg.db.tables import ExclusionTable, FindingTable, SeriesTable, WorkItemTable


def is_there(archive_id: int) -> ColumnElement[bool]:
    """Of a series: that its files are in the archive."""
    return (SeriesTable.archive_id == archive_id) & SeriesTable.missing_since.is_(None)


def is_readable(archive_id: int) -> ColumnElement[bool]:
    """Of a series: that its files are in the archive and make a volume."""
    return is_there(archive_id) & (SeriesTable.verdict == "readable")


def is_work_of(model_digest: str | None, config_digest: str | None) -> ColumnElement[bool]:
    """Of a series and an item of work: that it is the series' under this model and configuration (None: no such)."""
    return (
        (WorkItemTable.series_id == SeriesTable.id)
        & (WorkItemTable.fingerprint == SeriesTable.fingerprint)
        & (WorkItemTable.model_digest == model_digest)
        & (WorkItemTable.config_digest == config_digest)
    )


def is_exclusion_by(rules_digest: str | None) -> ColumnElement[bool]:
    """Of a series and an exclusion: that it is the series' under these rules (None: no such)."""
    return (
        (ExclusionTable.series_id == SeriesTable.id)
        & (ExclusionTable.fingerprint == SeriesTable.fingerprint)
        & (ExclusionTable.rules_digest == rules_digest)
    )


def last_reason() -> ScalarSelect[str | None]:
    """Of an item of work: the reason of its newest finding; one that was done again has several."""
    return (
        select(FindingTable.reason)
        .where(FindingTable.work_item_id == WorkItemTable.id)
        .order_by(FindingTable.id.desc())
        .limit(1)
        .correlate(WorkItemTable)
        .scalar_subquery()
    )
