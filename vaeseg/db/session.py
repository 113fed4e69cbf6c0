"""Opening the database, and transactions whose failures are one clear line."""

from __future__ import annotations

import logging
import math
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote_plus

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError

from vaeseg.db.migrate import migrate
from vaeseg.db.silence import notice_there, noticed_here
from vaeseg.errors import DatabaseAwayError, StoreError, UsageError

logger = logging.getLogger(__name__)

T = TypeVar("T")

BUSY_TIMEOUT_SECONDS = 30
"""How long one process waits for another's transaction before it gives up."""

CONNECT_TIMEOUT_SECONDS = 10
"""A server that has not answered by then is unreachable."""

PATIENCE_SECONDS = 300.0
"""How long a run waits for a database server that went away: a restart or an update of it, not a night."""

OUTAGES = 10
"""In one piece of work: what interrupts it more often is no restart, but comes each time, as a limit of time does."""

RECONNECT_SECONDS = 1.0
"""Between two attempts."""

AWAY_CODES = ("08", "57P")
"""SQLSTATE classes: connection exceptions; shutting down, crashed, starting up."""

HIDDEN = "***"
"""What people see of a password."""

_WRITES = "vaeseg_writes"


class _StaysAwayError(DatabaseAwayError):
    """The server was waited for, and did not come back."""


def utc_now() -> datetime:
    """The present moment, aware."""
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True, eq=False)
class Database:
    """An open, migrated database."""

    engine: Engine
    shown_url: str
    """For people: the URL with its password masked."""
    now: Callable[[], datetime] = field(default=utc_now)
    """The clock by which rows are stamped."""

    patience_seconds: float = 0.0
    """How long a transaction waits for the server before it begins."""
    while_waiting: Callable[[], None] = lambda: None
    """Called now and then while it waits; whatever it raises ends the waiting."""

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads.

        Raises:
            StoreError: the database fails.
        """
        with _clear_failures(self.engine.url), self._connected(self.engine) as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that commits when the block ends and rolls back when it raises.

        Raises:
            StoreError: the database fails.
        """
        writing = self.engine.execution_options(**{_WRITES: True})
        with _clear_failures(self.engine.url), self._connected(writing) as connection, connection.begin():
            yield connection

    def patient(self, while_waiting: Callable[[], None]) -> Database:
        """The same database for a run, which waits for a server that is away."""
        return replace(self, patience_seconds=PATIENCE_SECONDS, while_waiting=while_waiting)

    def outlasting(self, work: Callable[[], T]) -> T:
        """Do something, and do it again each time that the server goes away in the middle of it.

        Patience begins with a failure, however long the work had gone well by then, and begins anew, up to `OUTAGES`
        times, after a try that lasted longer than it: for that one the server was back.

        Args:
            work: safe to be done again after any of its transactions, committed or not.

        Raises:
            StoreError: the server stays away or goes away each time, or the database fails otherwise.
        """
        failing_since, n_outages = 0.0, 0
        while True:
            began = time.monotonic()
            try:
                return work()
            except _StaysAwayError:
                raise
            except DatabaseAwayError as error:
                failed = time.monotonic()
                if n_outages == 0 or failed - began > self.patience_seconds:
                    failing_since, n_outages = failed, n_outages + 1
                if failed - failing_since >= self.patience_seconds or n_outages > OUTAGES:
                    raise
                logger.warning("%s; what it interrupted is done again", error)
                self._wait()

    def _connected(self, engine: Engine) -> Connection:
        started = time.monotonic()
        while True:
            try:
                return engine.connect()
            except DBAPIError as error:
                waited = time.monotonic() - started
                if not _is_away(error):
                    raise
                if waited > self.patience_seconds:
                    raise _StaysAwayError(_message(engine.url, error)) from error
                if waited < RECONNECT_SECONDS:
                    logger.warning("the database is away: waiting up to %.0f s for it", self.patience_seconds)
                self._wait()

    def _wait(self) -> None:
        self.while_waiting()
        time.sleep(RECONNECT_SECONDS)

    def compact(self) -> None:
        """Write a SQLite file anew, so that it holds nothing of what was deleted from it; takes as much space again.

        Does nothing on PostgreSQL, whose server clears deleted rows away by itself.

        Raises:
            StoreError: the file is in use by another process, or the disk is full.
        """
        if self.engine.dialect.name != "sqlite":
            return
        with _clear_failures(self.engine.url), closing(self.engine.raw_connection()) as connection:
            connection.cursor().execute("VACUUM")
            (is_busy, *_) = connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            raise StoreError(f"database {self.shown_url} is being read by another process: try again")

    def close(self) -> None:
        """Give every connection back."""
        self.engine.dispose()


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file."""
    return URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)


def open_database(url: str, *, create: bool = True, now: Callable[[], datetime] = utc_now) -> Database:
    """Connect, and migrate to the newest revision; as `unmigrated_database` otherwise.

    Raises:
        DatabaseVersionError: it was migrated by a newer vaeseg.
    """
    database = unmigrated_database(url, create=create, now=now)
    try:
        with database.write() as connection:
            migrate(connection)
    except BaseException:
        database.close()
        raise
    return database


def unmigrated_database(url: str, *, create: bool = True, now: Callable[[], datetime] = utc_now) -> Database:
    """Connect, and leave the database at the revision that it is at.

    Args:
        url: ``sqlite:///path`` or ``postgresql://user:password@host/name``.
        create: make a SQLite file that does not exist.
        now: the clock by which rows are stamped.

    Raises:
        UsageError: not a URL of a database that vaeseg supports.
        StoreError: it cannot be reached, read or written, or is not vaeseg's.
    """
    parsed = supported_url(url)
    check_file(parsed, create)
    return Database(engine=_engine(parsed), shown_url=masked(parsed), now=now)


def supported_url(url: str) -> URL:
    """A URL with the driver that vaeseg uses.

    Raises:
        UsageError: not a URL of a database that vaeseg supports.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise UsageError("--db is not a database URL such as postgresql://user@host/name") from error
    kind = parsed.drivername.partition("+")[0]
    if kind in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if kind == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed.set(drivername="sqlite")
    raise UsageError(f"--db names {kind}, which is not supported: use sqlite:///FILE or postgresql://...")


def masked(url: URL) -> str:
    """For people: without a password, wherever in the URL one stands."""
    shown = url.set(drivername=url.get_backend_name())
    secrets = [key for key in shown.query if "pass" in key.lower()]
    text = shown.update_query_dict(dict.fromkeys(secrets, HIDDEN)).render_as_string(hide_password=True)
    return text.replace(quote_plus(HIDDEN), HIDDEN)


def check_file(url: URL, create: bool) -> None:
    """What SQLite would say about a path is "unable to open database file", whatever is wrong.

    Raises:
        StoreError: there can be no database at that path.
    """
    if url.drivername != "sqlite" or url.database is None or url.database.startswith("file:"):
        return
    path = Path(url.database)
    if path.is_dir():
        raise StoreError(f"{path} is a directory, not a database")
    if not path.exists() and not create:
        raise StoreError(f"no database at {path}")
    if not path.parent.is_dir():
        raise StoreError(f"no directory {path.parent} to hold the database")


def _engine(url: URL) -> Engine:
    """Parameters are hidden from messages and logs: they hold paths and identifiers."""
    if url.drivername == "sqlite":
        engine = create_engine(url, hide_parameters=True, connect_args={"timeout": BUSY_TIMEOUT_SECONDS})
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    try:
        # a statement prepared while a table was empty would go on reading all of it, however large it grows
        options = {"connect_timeout": CONNECT_TIMEOUT_SECONDS, "prepare_threshold": None, **noticed_here(url)}
        engine = create_engine(url, hide_parameters=True, pool_pre_ping=True, connect_args=options)
    except ModuleNotFoundError as error:
        raise StoreError("PostgreSQL needs a driver: pip install 'vaeseg[postgres]'") from error
    notice_there(engine)
    return engine


def _configure_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where _begin_sqlite says, for DDL too
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # a committed finding survives a power cut
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten with zeros
    define_functions(connection)


def define_functions(connection: sqlite3.Connection) -> None:
    """What the views call and SQLite may have been built without."""
    connection.create_function("ln", 1, lambda x: math.log(x) if x and x > 0 else None, deterministic=True)


def _begin_sqlite(connection: Connection) -> None:
    """A writer takes its lock at once: upgrading from a read later would fail instead of waiting."""
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def _clear_failures(url: URL) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        kind = DatabaseAwayError if _is_away(error) else StoreError
        raise kind(_message(url, error)) from error
    except sqlite3.Error as error:  # raised inside the connect event, past SQLAlchemy
        raise StoreError(f"database {masked(url)}: {error}") from error


def _is_away(error: DBAPIError) -> bool:
    """Whether a server cannot be connected to, or ended a connection; never of SQLite, which has no server."""
    if error.orig is None or type(error.orig).__module__.partition(".")[0] != "psycopg":
        return False
    code = getattr(error.orig, "sqlstate", None)
    if code is None:  # no answer: what ended it happened on the way
        return error.connection_invalidated or isinstance(error, OperationalError)
    return str(code).startswith(AWAY_CODES)


def _message(url: URL, error: DBAPIError) -> str:
    """With the driver's first line: further lines may hold values of rows."""
    lines = [line.strip() for line in str(error.orig).splitlines() if line.strip()]
    reason = lines[0] if lines else type(error.orig).__name__
    if "disk is full" in reason:
        reason += "; free space, then run the same command again"
    shown = reason.replace(url.password, HIDDEN) if url.password else reason
    return f"database {masked(url)}: {shown}"
