"""What runs took, and what an archive still has to be done: what an estimate of a night is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from sqlalchemy import Connection, Row, exists, func, select

from vaeseg.db.archives import archive_named
from vaeseg.db.coverage import series_by_category
from vaeseg.db.session import Database
from vaeseg.db.tables import FindingTable, InstanceTable, ModelTable, RunTable, SeriesTable
from vaeseg.db.watch_series import recorded_rules_digest
from vaeseg.errors import UsageError
from vaeseg.estimate.night import Workload
from vaeseg.estimate.rates import STAGES, MeasuredRun
from vaeseg.records import TRANSIENT

RECENT_RUNS = 20
"""Runs whose findings are looked at, newest first: machines and archives change."""
PACE = {field.name for field in fields(MeasuredRun)} - {"run_id", "n_slices", "stage_seconds"}
"""What `runs.counts` holds of a run's pace."""


def measured_runs(database: Database, model: str) -> list[MeasuredRun]:
    """The recent finished runs by the newest model of a name whose pace is known, newest first.

    Left out is a run that was resumed: its pace is of its last attempt, its findings are of all.
    """
    with database.read() as connection:
        digest = connection.scalar(
            select(ModelTable.digest).where(ModelTable.name == model).order_by(ModelTable.created_at.desc()).limit(1)
        )
        paces = {row.id: (row.counts or {}).get("pace") for row in _finished_runs(connection, digest)}
        runs = [_measured(connection, run_id, pace) for run_id, pace in paces.items() if pace is not None]
    return [run for run in runs if run is not None]


def _finished_runs(connection: Connection, digest: str | None) -> list[Row[Any]]:
    statement = (
        select(RunTable.id, RunTable.counts)
        .where(RunTable.kind == "segment", RunTable.status == "finished", RunTable.model_digest == digest)
        .order_by(RunTable.started_at.desc(), RunTable.id.desc())
        .limit(RECENT_RUNS)
    )
    return list(connection.execute(statement))


def _measured(connection: Connection, run_id: str, pace: Mapping[str, Any]) -> MeasuredRun | None:
    seconds = [getattr(FindingTable, f"{stage}_seconds") for stage in STAGES]
    statement = (
        select(FindingTable.n_slices, *seconds)
        .where(FindingTable.run_id == run_id, FindingTable.outcome == "segmented", FindingTable.n_slices > 0)
        .order_by(FindingTable.id)
    )
    rows = connection.execute(statement).all()
    if not rows or len(rows) != pace["n_segmented"]:
        return None
    slices, *stages = np.asarray([tuple(row) for row in rows], dtype=np.float64).T
    return MeasuredRun(
        run_id=run_id,
        n_slices=slices,
        stage_seconds=dict(zip(STAGES, stages, strict=True)),
        **{name: pace[name] for name in PACE},
    )


def archive_workload(database: Database, archive: str, model: str, *, everything: bool = False) -> Workload:
    """The readable series of an archive that its next scan has to do, as the last scan left the index.

    To do is what the newest run over the archive with a model of that name, its configuration and its rules leaves
    pending, and what failed for a reason that may have passed; everything readable where there was no such run.

    Args:
        database: where.
        archive: name.
        model: name.
        everything: also what is done.

    Raises:
        UsageError: no such archive, or one that was never scanned.
    """
    archive_id = archive_named(database, archive).id
    with database.read() as connection:
        _check_scanned(connection, archive_id, archive)
        run = _newest_run(connection, archive_id, model)
        digests = (run.model_digest, run.config_digest, recorded_rules_digest(run.config)) if run else (None,) * 3
        judged = series_by_category(archive_id, *digests)
        is_tried_again = (judged.c.category == "failed") & judged.c.reason.in_(TRANSIENT)
        is_to_do = (judged.c.category == "pending") | is_tried_again
        wanted = judged.c.category != "refused" if everything else is_to_do
        statement = (
            select(func.count(), func.sum(SeriesTable.n_slices))
            .join(judged, judged.c.series_id == SeriesTable.id)
            .where(wanted)
        )
        n_series, n_slices = connection.execute(statement).one()
    return Workload(n_series=n_series, n_slices=int(n_slices or 0))


def _check_scanned(connection: Connection, archive_id: int, name: str) -> None:
    """Nothing is known of what a scan has not found; one that found nothing, or only files that wait, is a scan."""
    has_files = exists().where(InstanceTable.archive_id == archive_id)
    was_counted = exists().where(RunTable.archive_id == archive_id, RunTable.files_found.is_not(None))
    if not connection.scalar(select(has_files | was_counted)):
        raise UsageError(
            f"archive {name} was never scanned: 'vaeseg-batch scan {name} --index-only' looks what there is to do"
        )


def _newest_run(connection: Connection, archive_id: int, model: str) -> Row[Any] | None:
    statement = (
        select(RunTable.model_digest, RunTable.config_digest, RunTable.config)
        .join(ModelTable, ModelTable.digest == RunTable.model_digest)
        .where(RunTable.archive_id == archive_id, RunTable.kind == "segment", ModelTable.name == model)
        .order_by(RunTable.started_at.desc(), RunTable.id.desc())
        .limit(1)
    )
    return connection.execute(statement).one_or_none()
