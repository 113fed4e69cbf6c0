"""Who did what, when, with how many rows: events, which are only ever added; triggers refuse the rest.

Nothing in an event names a subject, so that one who was erased needs no change of what is append-only.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pwd
import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, insert, inspect

from vaeseg.db.session import Database
from vaeseg.db.tables import EventTable
from vaeseg.errors import StoreError

logger = logging.getLogger(__name__)

MAY_NOT_WRITE = frozenset({"42501", "25006", "SQLITE_READONLY"})
"""What a reader's INSERT is answered: PostgreSQL's insufficient privilege and read-only transaction, and SQLite's."""


def account() -> str:
    """Account of the operating system under which this process acts.

    By its effective user id: USER, LOGNAME and the like could be set by anybody.
    """
    number = os.geteuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"uid {number}"


def add_event(
    connection: Connection,
    database: Database,
    kind: str,
    run_id: str | None,
    detail: Mapping[str, Any] | None = None,
    *,
    actor: str | None = None,
    n_rows: int | None = None,
) -> None:
    """Append to the record of what happened, in the transaction in which it happens.

    Args:
        connection: of that transaction.
        database: for its clock.
        kind: such as ``run_started``; docs/security.md lists them.
        run_id: which run it concerns.
        detail: JSON values; no patient data, no subject key, no path.
        actor: `account()` where somebody's command did it; None where a program did.
        n_rows: rows shown or changed; None where it is not about rows.
    """
    values = {"at": database.now(), "kind": kind, "run_id": run_id, "detail": dict(detail or {})}
    connection.execute(insert(EventTable).values(values | {"actor": actor, "n_rows": n_rows}))


def record_shown(
    database: Database, kind: str, n_rows: int | None, detail: Mapping[str, Any], run_id: str | None = None
) -> None:
    """Record that somebody is about to be shown rows; call it before they are printed.

    Who may read the database and not write it is not recorded here: that is the server's own log's to do.

    Args:
        database: where.
        kind: such as ``findings_shown``.
        n_rows: how many rows.
        detail: as for `add_event`.
        run_id: the run whose rows they are, where only those were asked for.

    Raises:
        StoreError: it cannot be recorded, so that nothing may be shown.
    """
    try:
        with database.write() as connection:
            add_event(connection, database, kind, run_id, detail, actor=account(), n_rows=n_rows)
    except StoreError as error:
        if not may_not_write(error):
            raise
        logger.info("this account may not write the database: %s is not recorded in it", kind)


def query_detail(database: Database, query: str) -> dict[str, Any]:
    """What is kept of a query: digest, length, and which of the database's tables and views it names.

    Its text may hold a subject key or anything else that somebody typed, and is not kept.
    """
    with database.read() as connection:
        inspector = inspect(connection)
        relations = {*inspector.get_table_names(), *inspector.get_view_names()}
    words = set(re.findall(r"\w+", query.lower()))
    return {
        "sha256": hashlib.sha256(query.encode("utf-8", "surrogatepass")).hexdigest(),
        "n_characters": len(query),
        "relations": sorted(relations & words),
    }


def may_not_write(error: StoreError) -> bool:
    """Whether it says that this account may read, or not even that."""
    reason = getattr(error.__cause__, "orig", None)
    code = getattr(reason, "sqlstate", None) or getattr(reason, "sqlite_errorname", None)
    return code in MAY_NOT_WRITE
