"""Runs: when each begins, that it still lives, and how it ends."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Connection, func, insert, select, update

from vaeseg.db.coverage import Scanned, record_coverage
from vaeseg.db.events import account, add_event
from vaeseg.db.session import Database
from vaeseg.db.tables import ArchiveTable, EventTable, ModelTable, RunTable
from vaeseg.db.upsert import insert_missing
from vaeseg.errors import ArchiveBusyError, RunNotFoundError, UsageError
from vaeseg.process import is_surely_dead, this_process
from vaeseg.records import FileCount

LOST_AFTER = timedelta(seconds=60)
"""A running run that has been silent for longer is taken for dead; drivers send heartbeats far more often."""

SUBMITTED_BY = "submitted by "
"""Begins the driver of a run that was given to a cluster and that no process has taken up yet."""
SUBMITTED_LOST_AFTER = timedelta(minutes=16)
"""Ray gives up a job that it could not start within 15 minutes."""

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
        config_json: `config.as_json` of its configuration.
        config_digest: `config.digest` of the same.

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


def hand_over(database: Database, run_id: str) -> str:
    """Leave a run to the cluster that it is about to be submitted to; returns the id of the submission.

    A submission id is never used twice: it carries the number of the attempt.

    Raises:
        RunNotFoundError: no such run.
    """
    with database.write() as connection:
        _update(connection, run_id, {"driver": SUBMITTED_BY + this_process(), "heartbeat_at": database.now()})
        return _submission_id(connection, run_id)


def is_submitted(database: Database, run_id: str) -> bool:
    """Whether a run waits for the cluster that it was submitted to."""
    with database.read() as connection:
        row = connection.execute(select(RunTable.driver, RunTable.status).where(RunTable.id == run_id)).one_or_none()
        return row is not None and row.status == "running" and waits_for_cluster(row.driver)


def last_submission(database: Database, run_id: str) -> tuple[str, str] | None:
    """Address of the cluster that a run was submitted to, and the id of the submission; None for one that was not.

    Raises:
        RunNotFoundError: no such run.
    """
    address = run_config(database, run_id).get("jobs_address")
    with database.read() as connection:
        return (address, _submission_id(connection, run_id)) if address else None


def run_config(database: Database, run_id: str) -> dict[str, Any]:
    """The configuration that a run was started with.

    Raises:
        RunNotFoundError: no such run.
    """
    with database.read() as connection:
        config = connection.scalar(select(RunTable.config).where(RunTable.id == run_id))
    if config is None:
        raise run_not_found(run_id)
    return dict(config)


def _submission_id(connection: Connection, run_id: str) -> str:
    resumed = select(func.count()).where(EventTable.run_id == run_id, EventTable.kind == "run_resumed")
    return f"vaeseg-{run_id}-a{1 + (connection.scalar(resumed) or 0)}"


def take_up(database: Database, run_id: str) -> bool:
    """Make this process the driver of a run; returns whether it is to stop at once, as `heartbeat`.

    Raises:
        RunNotFoundError: no such run.
        UsageError: another process drives it.
    """
    with database.write() as connection:
        driver = _driver(connection, run_id)
        if driver != this_process() and not waits_for_cluster(driver) and _lives(connection, database, run_id):
            raise UsageError(_is_running(run_id))
        _update(connection, run_id, {"driver": this_process(), "heartbeat_at": database.now()})
        return _is_to_stop(connection, run_id)


def heartbeat(database: Database, run_id: str) -> bool:
    """Say that a run lives.

    Returns:
        Whether this process is to stop: somebody asked for it, or took the run for dead and closed it, or another
        process drives it now. To the last, this is no sign of life.

    Raises:
        RunNotFoundError: no such run.
    """
    with database.write() as connection:
        if _driver(connection, run_id) != this_process():
            return True
        _update(connection, run_id, {"heartbeat_at": database.now()})
        return _is_to_stop(connection, run_id)


def _driver(connection: Connection, run_id: str) -> str:
    row = connection.execute(select(RunTable.driver).where(RunTable.id == run_id)).one_or_none()
    if row is None:
        raise run_not_found(run_id)
    return row.driver or ""


def _is_running(run_id: str) -> str:
    return f"run {run_id} is running: 'vaeseg-batch cancel {run_id}' stops it"


def _is_to_stop(connection: Connection, run_id: str) -> bool:
    asked = (RunTable.cancel_requested_at.is_not(None)) | (RunTable.status != "running")
    return bool(connection.scalar(select(asked).where(RunTable.id == run_id)))


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
        _update(connection, run_id, {"cancel_requested_at": database.now()})
        add_event(connection, database, "run_cancel_requested", run_id, actor=account())
    if is_live(database, run_id):
        return True
    finish_run(database, run_id, "interrupted")
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
    if is_live(database, run_id):
        raise UsageError(_is_running(run_id))
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
        if status in ("finished", "nothing_to_do"):
            raise UsageError(f"run {run_id} has finished: there is nothing to go on with")
        config = connection.scalar(select(RunTable.config).where(RunTable.id == run_id)) or {}
        _update(connection, run_id, values | {"config": config | dict(changes or {})})
        add_event(connection, database, "run_resumed", run_id, actor=account())


def finish_run(
    database: Database,
    run_id: str,
    status: EndStatus,
    counts: Mapping[str, Any] | None = None,
    scanned: Scanned | None = None,
    *,
    only_if_driven_here: bool = False,
) -> FileCount:
    """Record how a run ended, and what had become of everything in its archive.

    Args:
        database: where.
        run_id: from `start_run`.
        status: how.
        counts: further figures to keep with it, JSON values.
        scanned: what its scan found; None where it did not come to its end, and nobody knows what there is.
        only_if_driven_here: do nothing where another process has taken the run up; one that this process gave to a
            cluster, which has not begun it, is this one's.

    Returns:
        Files of the archive; none where nobody knows.

    Raises:
        RunNotFoundError: no such run.
    """
    now = database.now()
    values = {"status": status, "finished_at": now, "heartbeat_at": now, "counts": dict(counts or {})}
    with database.write() as connection:
        if only_if_driven_here and _driver(connection, run_id).removeprefix(SUBMITTED_BY) != this_process():
            return FileCount(found=0, in_series=0, refused=0)
        _update(connection, run_id, values)
        files = FileCount(found=0, in_series=0, refused=0)
        if scanned is not None:
            files = record_coverage(connection, run_id, scanned)
            _update(connection, run_id, _file_values(files))
        add_event(connection, database, f"run_{status}", run_id)
    return files


def take_archive(database: Database, archive_id: int, run_id: str) -> None:
    """Make a run the only one that indexes and segments an archive, until it ends or dies.

    Raises:
        ArchiveBusyError: another run has it and is alive.
    """
    row_of = select(ArchiveTable.held_by, ArchiveTable.name).where(ArchiveTable.id == archive_id).with_for_update()
    with database.write() as connection:
        held_by, name = connection.execute(row_of).one()
        if held_by not in (None, run_id) and _lives(connection, database, held_by):
            raise ArchiveBusyError(
                f"archive {name} is in use by run {held_by}: wait for its end, or stop it with 'vaeseg-batch cancel "
                f"{held_by}'"
            )
        connection.execute(update(ArchiveTable).where(ArchiveTable.id == archive_id).values(held_by=run_id))


def archive_holder(database: Database, archive_id: int) -> str | None:
    """The run that has an archive and is alive; None where it is free."""
    with database.read() as connection:
        held_by = connection.scalar(select(ArchiveTable.held_by).where(ArchiveTable.id == archive_id))
        return held_by if held_by is not None and _lives(connection, database, held_by) else None


def close_lost_runs(database: Database) -> tuple[str, ...]:
    """Mark runs whose driver died as interrupted, so that their work can be planned again; their ids."""
    running = select(RunTable.id, RunTable.heartbeat_at, RunTable.driver).where(RunTable.status == "running")
    with database.write() as connection:
        rows = connection.execute(running.order_by(RunTable.id)).all()
        run_ids = tuple(row.id for row in rows if is_lost(row.heartbeat_at, row.driver, database.now()))
        for run_id in run_ids:
            _update(connection, run_id, {"status": "interrupted"})
            add_event(connection, database, "run_lost", run_id)
    return run_ids


def is_live(database: Database, run_id: str) -> bool:
    """Whether a run is running and its driver is not known to be dead; False for one that does not exist."""
    with database.read() as connection:
        return _lives(connection, database, run_id)


def is_lost(heartbeat_at: datetime, driver: str | None, now: datetime) -> bool:
    """Whether a run that claims to run has no driver: silent for too long, seen to be gone, or never come."""
    patience = SUBMITTED_LOST_AFTER if waits_for_cluster(driver) else LOST_AFTER
    return now - heartbeat_at > patience or is_surely_dead(driver or "")


def waits_for_cluster(driver: str | None) -> bool:
    """Whether a run with that driver was submitted to a cluster, which has not begun it."""
    return (driver or "").startswith(SUBMITTED_BY)


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


def _file_values(files: FileCount) -> dict[str, Any]:
    return {
        "files_found": files.found,
        "files_in_series": files.in_series,
        "files_refused": files.refused,
        "files_waiting": files.waiting,
        "files_refused_by_reason": dict(files.refused_by_reason),
    }


def _lives(connection: Connection, database: Database, run_id: str) -> bool:
    row = connection.execute(
        select(RunTable.heartbeat_at, RunTable.driver).where(RunTable.id == run_id, RunTable.status == "running")
    ).one_or_none()
    return row is not None and not is_lost(row.heartbeat_at, row.driver, database.now())


def _status(connection: Connection, run_id: str) -> str:
    status = connection.scalar(select(RunTable.status).where(RunTable.id == run_id))
    if status is None:
        raise run_not_found(run_id)
    return str(status)


def _update(connection: Connection, run_id: str, values: Mapping[str, Any]) -> None:
    if connection.execute(update(RunTable).where(RunTable.id == run_id).values(dict(values))).rowcount == 0:
        raise run_not_found(run_id)


def run_not_found(run_id: str) -> RunNotFoundError:
    """The one sentence for it."""
    return RunNotFoundError(f"no run {run_id} in this store: 'vaeseg-batch status' lists the runs")
