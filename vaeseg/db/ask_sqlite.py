"""A question to a SQLite file: opened for reading, and every table and column that is read is asked for first."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from vaeseg.db.answers import PRIVATE_COLUMNS, PRIVATE_TABLES, Answer, Question, answer_of
from vaeseg.db.session import BUSY_TIMEOUT_SECONDS, define_functions
from vaeseg.db.tables import Base
from vaeseg.db.views import VIEWS
from vaeseg.errors import StoreError, UsageError, VaesegError

READABLE = (frozenset(Base.metadata.tables) | frozenset(VIEWS.tables)) - PRIVATE_TABLES
SCHEMA_TABLES = frozenset({"sqlite_master", "sqlite_schema", "json_each", "json_tree"})
"""Which tables there are, and what takes JSON apart."""

STEPS_BETWEEN_LOOKS = 10_000
"""Of SQLite's virtual machine, between two looks at the clock: about a millisecond."""

MAX_VALUE_BYTES = 100_000_000
"""Of one value: `zeroblob` would fill the memory otherwise."""

REFUSED = frozenset({sqlite3.SQLITE_AUTH, sqlite3.SQLITE_SCHEMA})
"""Error codes of what `_may` has denied; the second where it was about a new table."""

OF_THE_QUESTION = REFUSED | {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH}
"""Error codes that tell of the statement and not of the file."""


def ask_sqlite(path: Path, question: Question) -> Answer:
    """Ask; see `ask.ask`.

    Raises:
        UsageError: the SQL is wrong, or would do more than read what may be read.
        VaesegError: the time is up.
        StoreError: the file cannot be read.
    """
    try:
        with closing(_connection(path, question.timeout_seconds)) as connection:
            cursor = connection.execute(question.statement)
            if cursor.description is None:
                raise UsageError("the question is empty: ask one SELECT")
            names = [column[0] for column in cursor.description]
            return answer_of(question, names, cursor.fetchmany(question.limit + 1))
    except sqlite3.Warning as error:  # what Python 3.11 says about several statements
        raise UsageError(_sentence(error)) from error
    except sqlite3.Error as error:
        raise _understood(error, path, question) from error


def _connection(path: Path, timeout_seconds: float) -> sqlite3.Connection:
    """Three locks: the file is opened for reading, the connection refuses to write, and `_may` is asked."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_SECONDS)
    deadline = time.monotonic() + timeout_seconds
    connection.isolation_level = None
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA schema_version")  # a file that is no database is noticed here
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
    define_functions(connection)
    connection.set_authorizer(_may)
    connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS_BETWEEN_LOOKS)
    return connection


def _may(action: int, first: str | None, second: str | None, _database: str | None, _view: str | None) -> int:
    """SQLite asks this of all that a statement does; of a read, `first` is the table and `second` the column."""
    match action:
        case sqlite3.SQLITE_SELECT | sqlite3.SQLITE_RECURSIVE:
            return sqlite3.SQLITE_OK
        case sqlite3.SQLITE_FUNCTION if second != "load_extension":
            return sqlite3.SQLITE_OK
        case sqlite3.SQLITE_READ if _is_readable(first or "", second or ""):
            return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


def _is_readable(table: str, column: str) -> bool:
    """SQLite gives both names as the schema spells them; no column where rows are only counted, of subqueries too."""
    if not column:
        return table not in PRIVATE_TABLES
    return table in SCHEMA_TABLES or (table in READABLE and (table, column) not in PRIVATE_COLUMNS)


def _understood(error: sqlite3.Error, path: Path, question: Question) -> VaesegError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code == sqlite3.SQLITE_INTERRUPT:
        return VaesegError(question.too_long)
    if code not in OF_THE_QUESTION:
        return StoreError(f"database {path}: {_sentence(error)}")
    message = _sentence(error)
    if code in REFUSED:
        message += ": a question is one SELECT, and paths are not shown"
    elif "no such table" in message:
        message += ", or 'vaeseg-batch db upgrade' has not been run"
    return UsageError(message)


def _sentence(error: sqlite3.Error | sqlite3.Warning) -> str:
    return str(error).rstrip(".").splitlines()[0]
