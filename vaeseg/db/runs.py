"""Runs: how each begins, goes on and ends."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import Connection, insert, select

from vaeseg.db.coverage import Coverage, write_coverage
from vaeseg.db.drivers import SUBMITTED_BY, driver_of, lives, run_not_found, still_runs, update_run
from vaeseg.db.events import account, add_event
from vaeseg.db.session import Database
from vaeseg.db.tables import ArchiveTable, ModelTable, RunTable
from vaeseg.db.upsert import insert_missing
from vaeseg.errors import UsageError
from vaeseg.process import this_process
from vaeseg.records import FileCount

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
    model_digest: str | None
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
) -> str:
    """Record the start of a run.

    Args:
        database: where.
        kind: such as ``segment``.
        archive_id: what it works on.
        model_digest: of a registered model.
        config_json: `canonical.as_json` of its configuration.
        config_digest: `canonical.digest` of the same.

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
        "driver": this_process(),
        "counts": {},
    }
    with database.write() as connection:
        connection.execute(insert(RunTable).values(values))
        add_event(connection, database, "run_started", run_id, actor=account())
    return run_id


def cancel_run(database: Database, run_id: str) -> bool:
    """Ask a run to stop; one whose driver died is closed at once. Returns whether a driver was asked.

    Raises:
        RunNotFoundError: no such run.
        UsageError: it has ended.
    """
    with database.write() as connection:
        status = _status(connection, run_id)
        if status != "running":
            raise UsageError(f"run {run_id} has ended already: {status}")
        update_run(connection, run_id, {"cancel_requested_at": database.now()})
        add_event(connection, database, "run_cancel_requested", run_id, actor=account())
        if lives(connection, database, run_id):
            return True
        _end(connection, database, run_id, "interrupted")
        return False


def reopen_run(database: Database, run_id: str, changes: Mapping[str, Any] | None = None) -> None:
    """Make a run that did not finish run again.

    Args:
        database: where.
        run_id: from `start_run`.
        changes: fields of its configuration, outside the part that `config_digest` is over.

    Raises:
        RunNotFoundError: no such run.
        UsageError: it is running, or has finished.
    """
    now = database.now()
    values = {
        "status": "running",
        "heartbeat_at": now,
        "driver": this_process(),
        "finished_at": None,
        "cancel_requested_at": None,
    }
    with database.write() as connection:
        status = _status(connection, run_id)
        if lives(connection, database, run_id):
            raise still_runs(run_id)
        if status in ("finished", "nothing_to_do"):
            raise UsageError(f"run {run_id} has finished: there is nothing to go on with")
        config = connection.scalar(select(RunTable.config).where(RunTable.id == run_id)) or {}
        update_run(connection, run_id, values | {"config": config | dict(changes or {})})
        add_event(connection, database, "run_resumed", run_id, actor=account())


def finish_run(
    database: Database,
    run_id: str,
    status: EndStatus,
    counts: Mapping[str, Any] | None = None,
    coverage: Coverage | None = None,
    *,
    only_if_driven_here: bool = False,
) -> None:
    """Record how a run ended, and what had become of everything in its archive.

    Args:
        database: where.
        run_id: from `start_run`.
        status: how.
        counts: further figures to keep with it, JSON values.
        coverage: counted before, so that the row is not held meanwhile; None where the scan did not come to its end,
            and nobody knows what there is.
        only_if_driven_here: do nothing where another process has taken the run up; one that this process gave to a
            cluster, which has not begun it, is this one's.

    Raises:
        RunNotFoundError: no such run.
    """
    with database.write() as connection:
        if only_if_driven_here and driver_of(connection, run_id).removeprefix(SUBMITTED_BY) != this_process():
            return
        _end(connection, database, run_id, status, counts)
        if coverage is not None:
            write_coverage(connection, run_id, coverage)
            update_run(connection, run_id, _file_values(coverage.files))


def run_task(database: Database, run_id: str) -> RunTask:
    """What to execute.

    Raises:
        RunNotFoundError: no such run.
        UsageError: it has no archive.
    """
    with database.read() as connection:
        row = connection.execute(
            select(RunTable.archive_id, ArchiveTable.root, RunTable.model_digest, RunTable.config)
            .join(ArchiveTable, ArchiveTable.id == RunTable.archive_id)
            .where(RunTable.id == run_id)
        ).one_or_none()
        kind = connection.scalar(select(RunTable.kind).where(RunTable.id == run_id))
    if kind is None:
        raise run_not_found(run_id)
    if row is None:
        raise UsageError(f"run {run_id} works on no archive: give the command of its kind, {kind}, again")
    return RunTask(archive_id=row.archive_id, root=row.root, model_digest=row.model_digest, config=row.config)


def _end(
    connection: Connection, database: Database, run_id: str, status: EndStatus, counts: Mapping[str, Any] | None = None
) -> None:
    now = database.now()
    values = {"status": status, "finished_at": now, "heartbeat_at": now, "counts": dict(counts or {})}
    update_run(connection, run_id, values)
    add_event(connection, database, f"run_{status}", run_id)


def _file_values(files: FileCount) -> dict[str, Any]:
    return {
        "files_found": files.found,
        "files_in_series": files.in_series,
        "files_refused": files.refused,
        "files_waiting": files.waiting,
        "files_refused_by_reason": dict(files.refused_by_reason),
    }


def _status(connection: Connection, run_id: str) -> str:
    """What its row says until the transaction ends."""
    status = connection.scalar(select(RunTable.status).where(RunTable.id == run_id).with_for_update(key_share=True))
    if status is None:
        raise run_not_found(run_id)
    return str(status)
