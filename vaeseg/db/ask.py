"""Questions in SQL by people: on a connection that can only read, with a limit of rows and of time."""

from __future__ import annotations

from pathlib import Path

from vaeseg.db.answers import Answer, Question
from vaeseg.db.session import check_file, supported_url
from vaeseg.errors import UsageError


def ask(url: str, question: Question) -> Answer:
    """Ask a database; it is not migrated first, because a reader could not.

    Args:
        url: as for `session.open_database`.
        question: one SELECT.

    Raises:
        UsageError: the SQL is wrong, or would do more than read what may be read.
        VaesegError: the time is up.
        StoreError: the database cannot be reached or read.
    """
    _check(question)
    parsed = supported_url(url)
    if parsed.get_backend_name() == "sqlite":
        from vaeseg.db.ask_sqlite import ask_sqlite

        check_file(parsed, create=False)
        return ask_sqlite(Path(parsed.database or ""), question)
    from vaeseg.db.ask_postgresql import ask_postgresql

    return ask_postgresql(url, question)


def _check(question: Question) -> None:
    try:
        question.statement.encode()
    except UnicodeEncodeError as error:
        raise UsageError("the question holds bytes that are not UTF-8") from error
    if "\0" in question.statement or not question.statement.strip(" \t\r\n;"):
        raise UsageError("the question is empty: ask one SELECT")
