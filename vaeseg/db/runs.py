"""Runs: when each begins, that it still lives, and how it ends."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from sqlalchemy import Connection, insert, select, update

from vaeseg.db.session import Database
from vaeseg.db.tables import ArchiveTable, EventTable, ModelTable, RunTable
from vaeseg.db.upsert import insert_missing
from vaeseg.errors import RunNotFoundError
from vaeseg.records import FileCount

LOST_AFTER = timedelta(seconds=60)
"""A running run that has been silent for longer is taken for dead; drivers send heartbeats far more often."""

EndStatus = Literal["finished", "interrupted", "failed", "nothing_to_do"]


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """A checkpoint that a run uses."""

    digest: str
    """SHA-256 of the file, 64 hex digits."""
    name: str
    architecture: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunTask:
    """What a run was started to do, for whoever executes it."""

    archive_id: int
    root: str
    """Of the archive."""
    model_digest: str
    config: dict[str, Any]
    """`config.RunConfig` as JSON."""


def register_model(database: Database, model: ModelRow) -> None:
    """Record a checkpoint; one that is known by its digest stays as it is."""
    values = {
        "digest": model.digest,
        "name": model.name,
        "architecture": dict(model.architecture),
        "preprocessing": dict(model.preprocessing),
        "metrics": dict(model.metrics),
        "created_at": database.now(),
    }
    with database.write() as connection:
        insert_missing(connection, ModelTable, [values], key=("digest",))


def start_run(
    database: Database,
    *,
    kind: str,
    archive_id: int | None,
    model_digest: str | None,
    config_json: str,
    config_digest: str,
    files: FileCount | None = None,
) -> str:
    """Record the start of a run.

    Args:
        database: where.
        kind: such as ``segment``.
        archive_id: what it works on.
        model_digest: of a registered model.
        config_json: `config.as_json` of its configuration.
        config_digest: `config.digest` of the same.
        files: what the scan before it found, where there was one.

    Returns:
        The run's id, which sorts by time of start, such as ``20261122T013000-1a2b3c``.
    """
    now = database.now()
    run_id = f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    values = {
        "id": run_id,
        "kind": kind,
        "archive_id": archive_id,
        "model_digest": model_digest,
        "config": json.loads(config_json),
        "config_digest": config_digest,
        "status": "running",
        "started_at": now,
        "heartbeat_at": now,
        "counts": {},
    }
    with database.write() as connection:
        connection.execute(insert(RunTable).values(values | _file_values(files)))
        add_event(connection, database, "run_started", run_id)
    return run_id


def heartbeat(database: Database, run_id: str) -> None:
    """Say that a run lives.

    Raises:
        RunNotFoundError: no such run.
    """
    with database.write() as connection:
        _update(connection, run_id, {"heartbeat_at": database.now()})


def finish_run(
    database: Database,
    run_id: str,
    status: EndStatus,
    counts: Mapping[str, Any] | None = None,
    files: FileCount | None = None,
) -> None:
    """Record how a run ended.

    Args:
        database: where.
        run_id: from `start_run`.
        status: how.
        counts: further figures to keep with it, JSON values.
        files: what its scan found, where `start_run` could not know.

    Raises:
        RunNotFoundError: no such run.
    """
    now = database.now()
    values = {"status": status, "finished_at": now, "heartbeat_at": now, "counts": dict(counts or {})}
    with database.write() as connection:
        _update(connection, run_id, values | _file_values(files))
        add_event(connection, database, f"run_{status}", run_id)


def close_lost_runs(database: Database) -> tuple[str, ...]:
    """Mark runs whose driver died as interrupted, so that their work can be planned again; their ids."""
    silent_since = database.now() - LOST_AFTER
    lost = (RunTable.status == "running") & (RunTable.heartbeat_at < silent_since)
    with database.write() as connection:
        run_ids = tuple(connection.scalars(select(RunTable.id).where(lost).order_by(RunTable.id)))
        for run_id in run_ids:
            _update(connection, run_id, {"status": "interrupted"})
            add_event(connection, database, "run_lost", run_id)
    return run_ids


def is_live(database: Database, run_id: str) -> bool:
    """Whether a run is running and was heard of lately; False for one that does not exist."""
    with database.read() as connection:
        beat = connection.scalar(
            select(RunTable.heartbeat_at).where(RunTable.id == run_id, RunTable.status == "running")
        )
    return beat is not None and database.now() - beat <= LOST_AFTER


def run_task(database: Database, run_id: str) -> RunTask:
    """What to execute.

    Raises:
        RunNotFoundError: no such run, or one without an archive and a model.
    """
    with database.read() as connection:
        row = connection.execute(
            select(RunTable.archive_id, ArchiveTable.root, RunTable.model_digest, RunTable.config)
            .join(ArchiveTable, ArchiveTable.id == RunTable.archive_id)
            .where(RunTable.id == run_id, RunTable.model_digest.is_not(None))
        ).one_or_none()
    if row is None:
        raise run_not_found(run_id)
    return RunTask(archive_id=row.archive_id, root=row.root, model_digest=row.model_digest, config=row.config)


def add_event(
    connection: Connection, database: Database, kind: str, run_id: str | None, detail: Mapping[str, Any] | None = None
) -> None:
    """Append to the record of what happened; `detail` holds no patient data and no path."""
    values = {"at": database.now(), "kind": kind, "run_id": run_id, "detail": dict(detail or {})}
    connection.execute(insert(EventTable).values(values))


def _file_values(files: FileCount | None) -> dict[str, Any]:
    if files is None:
        return {}
    return {
        "files_found": files.found,
        "files_in_series": files.in_series,
        "files_refused": files.refused,
        "files_refused_by_reason": dict(files.refused_by_reason),
    }


def _update(connection: Connection, run_id: str, values: Mapping[str, Any]) -> None:
    if connection.execute(update(RunTable).where(RunTable.id == run_id).values(dict(values))).rowcount == 0:
        raise run_not_found(run_id)


def run_not_found(run_id: str) -> RunNotFoundError:
    """The one sentence for it."""
    return RunNotFoundError(f"no run {run_id} in this store: 'vaeseg-batch status' lists the runs")
