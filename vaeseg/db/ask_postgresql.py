"""A question to PostgreSQL: in a transaction that only reads, as a role that sees the views and nothing else.

Where that role does not exist (`migrations/roles.sql` was not run), the server says on which tables the statement
depends, and it is refused if one of them holds paths. That keeps paths out of sight; who may not see them needs an
account that cannot read them, which is what the role is for.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

from vaeseg.db.answers import PRIVATE_COLUMNS, PRIVATE_TABLES, READER_ROLE, Answer, Question, answer_of
from vaeseg.db.session import unmigrated_database
from vaeseg.errors import StoreError, UsageError, VaesegError

if TYPE_CHECKING:
    import psycopg

TABLES_WITH_PATHS = sorted(PRIVATE_TABLES | {table for table, _ in PRIVATE_COLUMNS})

MAX_TIMEOUT_MS = 2**31 - 1

OF_THE_QUESTION = ("0A", "21", "25", "34", "42", "54")
"""Classes of SQLSTATE that tell of the statement: not supported, cardinality, read-only, cursor, syntax and access,
too complex."""

CAN_BE_READER = f"""
SELECT CASE WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = '{READER_ROLE}')
            THEN pg_has_role('{READER_ROLE}', 'MEMBER')
                 AND has_schema_privilege('{READER_ROLE}', current_schema(), 'USAGE')
                 AND has_table_privilege('{READER_ROLE}', to_regclass('latest_findings')::oid, 'SELECT')
            END
"""

CAN_READ_PATHS = """
SELECT COALESCE(bool_or(has_any_column_privilege(to_regclass(name)::oid, 'SELECT')), false)
FROM unnest(%s::text[]) AS name
"""

TABLES_OF_QUESTION = """
SELECT DISTINCT asked.relname
FROM pg_depend AS needs
JOIN pg_rewrite AS rule ON rule.oid = needs.objid AND needs.classid = 'pg_rewrite'::regclass
JOIN pg_class AS asked ON asked.oid = needs.refobjid AND needs.refclassid = 'pg_class'::regclass
WHERE rule.ev_class = 'pg_temp.vaeseg_question'::regclass AND asked.relname = ANY(%s)
ORDER BY asked.relname
"""


def ask_postgresql(url: str, question: Question) -> Answer:
    """Ask; see `ask.ask`.

    Raises:
        UsageError: the SQL is wrong, or would do more than read what may be read.
        VaesegError: the time is up.
        StoreError: the server cannot be reached, or fails.
    """
    import psycopg

    with closing(unmigrated_database(url)) as database:
        try:
            with database.read() as connection:
                driver: Any = connection.connection.driver_connection
                return _answered(driver, question)
        except psycopg.DataError as error:  # the server's, or a value that Python cannot hold, such as 'infinity'
            raise UsageError(_sentence(error)) from error
        except psycopg.Error as error:
            raise _understood(error, database.shown_url, question) from error


def _answered(connection: psycopg.Connection[Any], question: Question) -> Answer:
    is_reader = _truth(connection, CAN_BE_READER)
    if not is_reader and _truth(connection, CAN_READ_PATHS, [TABLES_WITH_PATHS]):
        _check_tables(connection, question)
    connection.rollback()
    milliseconds = min(MAX_TIMEOUT_MS, max(1, round(question.timeout_seconds * 1000)))
    connection.execute("SET TRANSACTION READ ONLY")
    connection.execute("SET LOCAL timezone = 'UTC'")
    connection.execute(f"SET LOCAL statement_timeout = {milliseconds}".encode())
    if is_reader:
        connection.execute(f"SET LOCAL ROLE {READER_ROLE}".encode())
    with connection.cursor(name="question") as cursor:  # rows stay on the server until they are fetched
        cursor.execute(question.statement.encode())
        names = [column.name for column in cursor.description or ()]
        return answer_of(question, names, cursor.fetchmany(question.limit + 1))


def _truth(connection: psycopg.Connection[Any], query: str, parameters: list[Any] | None = None) -> bool:
    row = connection.execute(query.encode(), parameters).fetchone()
    return bool(row and row[0])


def _check_tables(connection: psycopg.Connection[Any], question: Question) -> None:
    """Define the question as a view, ask on what that depends, and forget it: no parser of ours could know better.

    What a view of ours reads does not count: it shows no path.
    """
    statement = question.statement.rstrip(" \t\r\n;")
    view = f"CREATE TEMPORARY VIEW vaeseg_question AS SELECT 1 AS one FROM (\n{statement}\n) AS asked"
    connection.execute(view.encode(), binary=True)  # the protocol that takes a single statement
    tables = [row[0] for row in connection.execute(TABLES_OF_QUESTION, [TABLES_WITH_PATHS])]
    connection.rollback()
    if tables:
        raise UsageError(f"{', '.join(tables)} cannot be read, because paths are not shown: ask the views instead")


def _understood(error: psycopg.Error, shown_url: str, question: Question) -> VaesegError:
    state = error.sqlstate or ""
    if state == "57014":  # query_canceled
        return VaesegError(question.too_long)
    if not state.startswith(OF_THE_QUESTION):
        return StoreError(f"database {shown_url}: {_sentence(error)}")
    message = _sentence(error)
    if state == "42501":  # insufficient_privilege
        message += f": what {READER_ROLE} cannot read is not shown"
    elif state == "42P01":  # undefined_table
        message += ", or 'vaeseg-batch db upgrade' has not been run"
    return UsageError(message)


def _sentence(error: psycopg.Error) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
