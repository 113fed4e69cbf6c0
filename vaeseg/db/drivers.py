"""Who drives a run: that it lives, who takes it up, and which run has an archive for itself."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select, func, select, update

from vaeseg.db.events import add_event
from vaeseg.db.session import Database
from vaeseg.db.tables import ArchiveTable, EventTable, RunTable
from vaeseg.errors import ArchiveBusyError, RunNotFoundError, UsageError
from vaeseg.process import is_surely_dead, this_process

LOST_AFTER = timedelta(seconds=60)
"""A running run that has been silent for longer is taken for dead; drivers send heartbeats far more often."""

SUBMITTED_BY = "submitted by "
"""Begins the driver of a run that was given to a cluster and that no process has taken up yet."""
SUBMITTED_LOST_AFTER = timedelta(minutes=16)
"""Ray gives up a job that it could not start within 15 minutes."""


def hand_over(database: Database, run_id: str) -> str:
    """Leave a run to the cluster that it is about to be submitted to; returns the id of the submission.

    A submission id is never used twice: it carries the number of the attempt.

    Raises:
        RunNotFoundError: no such run.
    """
    with database.write() as connection:
        update_run(connection, run_id, {"driver": SUBMITTED_BY + this_process(), "heartbeat_at": database.now()})
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
        driver = driver_of(connection, run_id)
        if driver != this_process() and not waits_for_cluster(driver) and lives(connection, database, run_id):
            raise still_runs(run_id)
        update_run(connection, run_id, {"driver": this_process(), "heartbeat_at": database.now()})
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
        if driver_of(connection, run_id) != this_process():
            return True
        update_run(connection, run_id, {"heartbeat_at": database.now()})
        return _is_to_stop(connection, run_id)


def _is_to_stop(connection: Connection, run_id: str) -> bool:
    asked = (RunTable.cancel_requested_at.is_not(None)) | (RunTable.status != "running")
    return bool(connection.scalar(select(asked).where(RunTable.id == run_id)))


def take_archive(database: Database, archive_id: int, run_id: str) -> None:
    """Make a run the only one that indexes and segments an archive, until it ends or dies.

    Raises:
        ArchiveBusyError: another run has it and is alive.
    """
    with database.write() as connection:
        check_archive_free(connection, database, archive_id, run_id)
        connection.execute(update(ArchiveTable).where(ArchiveTable.id == archive_id).values(held_by=run_id))


def check_archive_free(connection: Connection, database: Database, archive_id: int, run_id: str | None = None) -> None:
    """Refuse an archive that a run works on, other than the one named; free, it stays so until the transaction ends.

    Raises:
        ArchiveBusyError: such a run has it and is alive.
    """
    row_of = select(ArchiveTable.held_by, ArchiveTable.name).where(ArchiveTable.id == archive_id).with_for_update()
    held_by, name = connection.execute(row_of).one()
    if held_by not in (None, run_id) and lives(connection, database, held_by):
        raise ArchiveBusyError(
            f"archive {name} is in use by run {held_by}: wait for its end, or stop it with 'vaeseg-batch cancel "
            f"{held_by}'"
        )


def archive_holder(database: Database, archive_id: int) -> str | None:
    """The run that has an archive and is alive; None where it is free."""
    with database.read() as connection:
        held_by = connection.scalar(select(ArchiveTable.held_by).where(ArchiveTable.id == archive_id))
        return held_by if held_by is not None and lives(connection, database, held_by) else None


def close_lost_runs(database: Database) -> tuple[str, ...]:
    """Mark runs whose driver died as interrupted, so that their work can be planned again; their ids.

    Waits for nobody: whoever holds a run's row at the moment drives that run, ends it, or closes it as we would.
    """
    now = database.now()
    running = select(RunTable.id, RunTable.heartbeat_at, RunTable.driver).where(RunTable.status == "running")
    with database.write() as connection:
        seen = _lost(connection, running, now)
        still = running.where(RunTable.id.in_(seen)).with_for_update(key_share=True, skip_locked=True)
        run_ids = _lost(connection, still, now)
        for run_id in run_ids:
            update_run(connection, run_id, {"status": "interrupted"})
            add_event(connection, database, "run_lost", run_id)
    return run_ids


def _lost(connection: Connection, runs: Select[str, datetime, str | None], now: datetime) -> tuple[str, ...]:
    rows = connection.execute(runs.order_by(RunTable.id))
    return tuple(row.id for row in rows if is_lost(row.heartbeat_at, row.driver, now))


def was_closed_as_lost(database: Database, run_id: str) -> bool:
    """Whether `close_lost_runs` ended a run, and nobody has gone on with it since."""
    of_run = select(EventTable.kind).where(EventTable.run_id == run_id, EventTable.kind.startswith("run_"))
    with database.read() as connection:
        return connection.scalar(of_run.order_by(EventTable.id.desc()).limit(1)) == "run_lost"


def is_live(database: Database, run_id: str) -> bool:
    """Whether a run is running and its driver is not known to be dead; False for one that does not exist."""
    with database.read() as connection:
        return lives(connection, database, run_id)


def lives(connection: Connection, database: Database, run_id: str) -> bool:
    """`is_live` within a transaction."""
    row = connection.execute(
        select(RunTable.heartbeat_at, RunTable.driver).where(RunTable.id == run_id, RunTable.status == "running")
    ).one_or_none()
    return row is not None and not is_lost(row.heartbeat_at, row.driver, database.now())


def is_lost(heartbeat_at: datetime, driver: str | None, now: datetime) -> bool:
    """Whether a run that claims to run has no driver: silent for too long, seen to be gone, or never come."""
    patience = SUBMITTED_LOST_AFTER if waits_for_cluster(driver) else LOST_AFTER
    return now - heartbeat_at > patience or is_surely_dead(driver or "")


def waits_for_cluster(driver: str | None) -> bool:
    """Whether a run with that driver was submitted to a cluster, which has not begun it."""
    return (driver or "").startswith(SUBMITTED_BY)


def driver_of(connection: Connection, run_id: str) -> str:
    """The process that a run's row names, and names until the transaction ends; empty where it names none.

    Raises:
        RunNotFoundError: no such run.
    """
    of_run = select(RunTable.driver).where(RunTable.id == run_id)
    row = connection.execute(of_run.with_for_update(key_share=True)).one_or_none()  # a commit of its findings goes on
    if row is None:
        raise run_not_found(run_id)
    return row.driver or ""


def still_runs(run_id: str) -> UsageError:
    """The one sentence for it."""
    return UsageError(f"run {run_id} is running: 'vaeseg-batch cancel {run_id}' stops it")


def update_run(connection: Connection, run_id: str, values: Mapping[str, Any]) -> None:
    """Change columns of a run's row.

    Raises:
        RunNotFoundError: no such run.
    """
    if connection.execute(update(RunTable).where(RunTable.id == run_id).values(dict(values))).rowcount == 0:
        raise run_not_found(run_id)


def run_not_found(run_id: str) -> RunNotFoundError:
    """The one sentence for it."""
    return RunNotFoundError(f"no run {run_id} in this store: 'vaeseg-batch status' lists the runs")


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
