"""Whether the ledger can be kept: checks for `vaeseg-batch doctor`. Nothing is changed, and nothing migrated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import exists, insert, select

from vaeseg.checks import ArchiveRoot, Check, failed, passed, warned
from vaeseg.db.archives import Archive, index_counts, list_archives
from vaeseg.db.drivers import is_lost
from vaeseg.db.migrate import revisions
from vaeseg.db.session import Database
from vaeseg.db.tables import ArchiveTable, ModelTable, RunTable, SeriesTable
from vaeseg.errors import StoreError

RESUMED_KINDS = ("segment", "index")
"""Runs that `resume` goes on with; of another, the command is given again."""


def database_checks(database: Database) -> Iterator[Check]:
    """Whether it answers, is of this version, takes a transaction, and has runs whose driver is gone.

    Raises:
        StoreError: it cannot be read.
    """
    with database.read() as connection:
        is_at, newest = revisions(connection)
    is_server = database.engine.dialect.name == "postgresql"
    yield passed("database", f"{'PostgreSQL' if is_server else 'SQLite'}, {database.shown_url}")
    yield _schema(is_at, newest, is_server)
    if is_at == newest:
        yield _writing(database)
        yield from _runs(database)


def _schema(is_at: str | None, newest: str, is_server: bool) -> Check:
    if is_at == newest:
        return passed("schema", f"revision {newest}")
    found = f"revision {is_at or 'none'}, this version has {newest}"
    if is_at is not None and is_at > newest:
        return failed("schema", found, "upgrade vaeseg: a newer one has used this database")
    if is_server:  # whoever runs at night may write rows, and only the owner may change tables
        return failed("schema", found, "run 'vaeseg-batch db upgrade' as the owner of the database")
    return warned("schema", found, "'vaeseg-batch db upgrade', or the next command that writes, brings it up to date")


class _UndoneError(Exception):
    """Takes a transaction back."""


def _writing(database: Database) -> Check:
    """A row that is never committed."""
    values = {"digest": "doctor", "name": "doctor", "architecture": {}, "preprocessing": {}, "metrics": {}}
    try:
        with suppress(_UndoneError), database.write() as connection:
            connection.execute(insert(ModelTable).values(**values, created_at=database.now()))
            raise _UndoneError
    except StoreError as error:
        advice = "give the account of vaeseg the right to write: the file and its directory, or 'vaeseg-batch db roles'"
        return failed("database_write", str(error), advice)
    return passed("database_write", "a transaction was written and taken back")


def _runs(database: Database) -> Iterator[Check]:
    """Runs that claim to run and have no driver; what they hold is free to be taken."""
    held = ArchiveTable.held_by == RunTable.id
    running = (
        select(RunTable.id, RunTable.kind, RunTable.heartbeat_at, RunTable.driver, ArchiveTable.name)
        .join(ArchiveTable, held, isouter=True)
        .where(RunTable.status == "running")
        .order_by(RunTable.id)
    )
    with database.read() as connection:
        rows = connection.execute(running).all()
    lost = [row for row in rows if is_lost(row.heartbeat_at, row.driver, database.now())]
    if not lost:
        yield passed("runs", f"{len(rows)} under way, none without its driver")
    for row in lost:
        yield _lost_run(row)


def _lost_run(row: Any) -> Check:
    holds = f", and holds archive {row.name}" if row.name else ""
    found = f"run {row.id} ({row.kind}) lost its driver after {row.heartbeat_at:%Y-%m-%d %H:%M} UTC{holds}"
    advice = (
        f"'vaeseg-batch resume {row.id}' goes on with it" if row.kind in RESUMED_KINDS else "give its command again"
    )
    return warned("runs", found, advice)


@dataclass(frozen=True, kw_only=True)
class LedgerFacts:
    """What other checks need to know of the database."""

    archives: tuple[ArchiveRoot, ...] = ()
    holds_subjects: bool = False
    """Whether subjects are recorded under pseudonyms."""
    identity: str | None = None
    """Digest of its archives and its first run: the same from wherever the same database is looked at."""


def ledger_facts(database: Database) -> LedgerFacts:
    """Ask for them.

    Raises:
        StoreError: the database cannot be read, or is of another version.
    """
    with database.read() as connection:
        archives = connection.execute(select(ArchiveTable.id, ArchiveTable.root).order_by(ArchiveTable.id)).all()
        first_run = connection.scalar(select(RunTable.id).order_by(RunTable.started_at, RunTable.id).limit(1))
    content = json.dumps([[list(row) for row in archives], first_run])
    return LedgerFacts(
        archives=tuple(_root(database, archive) for archive in list_archives(database)),
        holds_subjects=holds_subjects(database),
        identity=hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest(),
    )


def holds_subjects(database: Database) -> bool:
    """Whether subjects are recorded under pseudonyms."""
    with database.read() as connection:
        return bool(connection.scalar(select(exists().where(SeriesTable.subject_key.is_not(None)))))


def _root(database: Database, archive: Archive) -> ArchiveRoot:
    return ArchiveRoot(
        name=archive.name,
        root=archive.root,
        n_files=index_counts(database, archive.id).n_files,
        is_registered=archive.is_registered,
    )
