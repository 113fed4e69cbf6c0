"""Bring a database to the revision that this code knows, in one transaction.

Scripts make one line and are named after their revisions, so that one that is up to date is known for it without
Alembic: every command opens a database, and few migrate it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

import vaeseg
from vaeseg.db.tables import Base
from vaeseg.errors import DatabaseVersionError, StoreError

if TYPE_CHECKING:
    from alembic.config import Config

VERSION_TABLE = "alembic_version"
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
    if current_revision(connection) == known_revisions()[-1]:
        return
    import alembic.command

    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
    _check_ours(connection)
    had_roles = _has_roles(connection)
    alembic.command.upgrade(_config(connection), "head")
    if had_roles:
        connection.execution_options(no_parameters=True).exec_driver_sql(roles_script())


def revisions(connection: Connection) -> tuple[str | None, str]:
    """The revision that a database is at (None for an empty or foreign one), and the newest that this code knows."""
    return current_revision(connection), known_revisions()[-1]


def is_empty(connection: Connection) -> bool:
    """Whether a database is still to be filled by the first run.

    Raises:
        StoreError: the database holds the tables of something else.
    """
    _check_ours(connection)
    return current_revision(connection) is None


def check_revision(connection: Connection) -> None:
    """For those who only look: changes nothing.

    Raises:
        DatabaseVersionError: the database is at a revision that this code does not know.
        StoreError: it is at an older one, or holds nothing of vaeseg.
    """
    _check_ours(connection)
    present, newest = revisions(connection)
    if present != newest:
        found = f"at revision {present}" if present else "empty"
        raise StoreError(f"the database is {found}, not at {newest}: 'vaeseg-batch db upgrade' brings it there")


def roles_script() -> str:
    """SQL that makes the roles of PostgreSQL, or grants them what is new."""
    return (migrations_directory() / "roles.sql").read_text(encoding="utf-8")


def current_revision(connection: Connection) -> str | None:
    """The revision a database is at; None for an empty or foreign one."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    revision: str | None = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))
    return revision


def known_revisions() -> list[str]:
    """Those that this code has scripts for, oldest first."""
    scripts = (migrations_directory() / "versions").glob("[0-9]*_*.py")
    return sorted(script.name.partition("_")[0] for script in scripts)


def migrations_directory() -> Path:
    """Where the scripts are: inside an installed package, or beside it in a checkout."""
    package = Path(vaeseg.__file__).parent
    installed = package / "_migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def _has_roles(connection: Connection) -> bool:
    """Whether the script of roles was run in this database."""
    if connection.dialect.name != "postgresql" or current_revision(connection) is None:
        return False
    granted = """
        SELECT EXISTS (SELECT FROM information_schema.role_table_grants
                       WHERE grantee = 'vaeseg_writer' AND table_schema = current_schema() AND table_name = 'findings')
    """
    return bool(connection.scalar(text(granted)))


def _config(connection: Connection) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_directory()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _check_ours(connection: Connection) -> None:
    revision = current_revision(connection)
    if revision is None:
        _check_empty(connection)
        return
    known = known_revisions()
    if revision not in known:
        raise DatabaseVersionError(
            f"the database is at revision {revision}, this vaeseg {vaeseg.__version__} knows up to {known[-1]}: "
            "upgrade vaeseg"
        )


def _check_empty(connection: Connection) -> None:
    """Another application's SQLite file is not ours to add to; on a server only our own names matter."""
    present = set(inspect(connection).get_table_names()) - {VERSION_TABLE}
    foreign = present if connection.dialect.name == "sqlite" else present & set(Base.metadata.tables)
    if foreign:
        raise StoreError(f"the database holds tables that vaeseg did not make ({', '.join(sorted(foreign)[:3])})")
