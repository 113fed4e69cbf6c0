"""What rules leave out: which readable series have an answer already, and new answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import case, delete, false, func, select

from vaeseg.db.present_series import is_exclusion_by, is_readable, is_work_of, last_reason
from vaeseg.db.session import Database
from vaeseg.db.tables import ExclusionTable, InstanceTable, RunTable, SeriesTable, WorkItemTable
from vaeseg.db.upsert import in_batches, upsert
from vaeseg.records import TRANSIENT
from vaeseg.rules.series_rules import Exclusion


class Standing(NamedTuple):
    """A readable series with what the ledger and the rules have said of it, in its present state."""

    series_id: int
    series_key: str
    study_instance_uid: str
    group_key: str
    fingerprint: str
    n_slices: int
    spacing_mm: float
    """Between slices."""
    state: str | None
    """Of its work with one model and configuration; None where none was planned."""
    is_tried_again: bool
    """Whether it failed for a reason that may be gone, so that the next run does it unasked."""
    run_id: str | None
    """The last that planned it."""
    rule: str | None
    """That leaves it out; None where none does or none was asked."""


def standings(
    database: Database, archive_id: int, model_digest: str, config_digest: str, rules_digest: str
) -> list[Standing]:
    """The readable series of an archive whose files are there, in order of key."""
    statement = (
        select(
            SeriesTable.id.label("series_id"),
            SeriesTable.series_key,
            SeriesTable.study_instance_uid,
            SeriesTable.group_key,
            SeriesTable.fingerprint,
            SeriesTable.n_slices,
            SeriesTable.spacing_k_mm.label("spacing_mm"),
            WorkItemTable.state,
            case((WorkItemTable.state == "failed", last_reason().in_(TRANSIENT)), else_=false()).label(
                "is_tried_again"
            ),
            WorkItemTable.run_id,
            ExclusionTable.rule,
        )
        .select_from(SeriesTable)
        .join(WorkItemTable, is_work_of(model_digest, config_digest), isouter=True)
        .join(ExclusionTable, is_exclusion_by(rules_digest), isouter=True)
        .where(is_readable(archive_id))
        .order_by(SeriesTable.series_key)
    )
    with database.read() as connection:
        return [Standing(**row._mapping) for row in connection.execute(statement)]


def runs_with_rules(database: Database, run_ids: Iterable[str], rules: Mapping[str, Any]) -> set[str]:
    """Those of some runs that followed the same rules."""
    statement = select(RunTable.id, RunTable.config)
    with database.read() as connection:
        return {
            run_id
            for batch in in_batches(run_ids)
            for run_id, config in connection.execute(statement.where(RunTable.id.in_(batch)))
            if config.get("rules") == rules
        }


def sample_paths(database: Database, series_ids: Iterable[int]) -> dict[int, str]:
    """One file of each series, always the same while it is there; relative to the archive's root."""
    is_there = InstanceTable.missing_since.is_(None)
    paths: dict[int, str] = {}
    with database.read() as connection:
        for batch in in_batches(series_ids):
            first = select(func.min(InstanceTable.id)).where(InstanceTable.series_id.in_(batch), is_there)
            of_each = first.group_by(InstanceTable.series_id)
            found = select(InstanceTable.series_id, InstanceTable.path).where(InstanceTable.id.in_(of_each))
            paths |= {row.series_id: row.path for row in connection.execute(found)}
    return paths


def record_decisions(
    database: Database,
    run_id: str,
    rules_digest: str,
    decided: Sequence[Standing],
    left_out: Mapping[str, Exclusion],
) -> None:
    """Record what was decided anew, in place of what these rules decided before; one transaction.

    Args:
        database: where.
        run_id: which run decided.
        rules_digest: by which rules.
        decided: series about which there is a decision.
        left_out: series key to why, for those of them that are left out.
    """
    rows = [
        {
            "series_id": series.series_id,
            "rules_digest": rules_digest,
            "fingerprint": series.fingerprint,
            "rule": left_out[series.series_key].rule,
            "detail": left_out[series.series_key].detail,
            "run_id": run_id,
            "created_at": database.now(),
        }
        for series in decided
        if series.series_key in left_out
    ]
    taken = [series.series_id for series in decided if series.series_key not in left_out]
    of_rules = delete(ExclusionTable).where(ExclusionTable.rules_digest == rules_digest)
    with database.write() as connection:
        for ids in in_batches(taken):
            connection.execute(of_rules.where(ExclusionTable.series_id.in_(ids)))
        for batch in in_batches(rows):
            upsert(connection, ExclusionTable, batch, key=("series_id", "rules_digest"))
