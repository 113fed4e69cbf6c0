"""Bring a database to the revision that this code knows, in one transaction."""

from __future__ import annotations

from pathlib import Path

import alembic.command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

import vaeseg
from vaeseg.db.tables import Base
from vaeseg.errors import DatabaseVersionError, StoreError

_ADVISORY_LOCK = 0x7661_6573
"""PostgreSQL's lock for migrating vaeseg databases ("vaes"); SQLite's write lock does the same."""


def migrate(connection: Connection) -> None:
    """Run the migrations that a database lacks; nothing on one that is up to date.

    Args:
        connection: inside a transaction that may write.

    Raises:
        DatabaseVersionError: the database is at a revision that this code does not know.
        StoreError: the database holds the tables of something else.
    """
    config = _config(connection)
    script = ScriptDirectory.from_config(config)
    if current_revision(connection) == script.get_current_head():
        return
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
    _check_ours(connection, script)
    alembic.command.upgrade(config, "head")


def current_revision(connection: Connection) -> str | None:
    """The revision a database is at; None for an empty or foreign one."""
    revision: str | None = MigrationContext.configure(connection).get_current_revision()
    return revision


def migrations_directory() -> Path:
    """Where the scripts are: inside an installed package, or beside it in a checkout."""
    package = Path(vaeseg.__file__).parent
    installed = package / "_migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_directory()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _check_ours(connection: Connection, script: ScriptDirectory) -> None:
    revision = current_revision(connection)
    if revision is None:
        _check_empty(connection)
        return
    known = [known.revision for known in script.walk_revisions()]
    if revision not in known:
        raise DatabaseVersionError(
            f"the database is at revision {revision}, this vaeseg {vaeseg.__version__} knows up to {known[0]}: "
            "upgrade vaeseg"
        )


def _check_empty(connection: Connection) -> None:
    """Another application's SQLite file is not ours to add to; on a server only our own names matter."""
    present = set(inspect(connection).get_table_names()) - {"alembic_version"}
    foreign = present if connection.dialect.name == "sqlite" else present & set(Base.metadata.tables)
    if foreign:
        raise StoreError(f"the database holds tables that vaeseg did not make ({', '.join(sorted(foreign)[:3])})")
