"""A scan as a process of its own: what the scheduler starts."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime

from vaeseg.db.schedules import Schedule
from vaeseg.paths import AnyPath
from vaeseg.process import process_name

PROGRAM = "from vaeseg.cli import main; main(prog_name='vaeseg-batch')"
"""The same command that people call, whatever PATH says."""


class ScanProcess:
    """`vaeseg-batch scan` with the options of a schedule.

    The store and the database go by the environment: a command line is for everybody on the machine to see. It is the
    leader of a session, so that Ctrl-C in the scheduler's terminal reaches it once, from the scheduler.

    Args:
        schedule: whose archive and options.
        deadline: it begins no series after this moment.
        store_root: of results.
        database_url: None for SQLite in the store.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(
        self, schedule: Schedule, deadline: datetime | None, *, store_root: AnyPath, database_url: str | None
    ) -> None:
        until = [] if deadline is None else [f"--until={deadline.isoformat()}"]
        environment = {**os.environ, "VAESEG_STORE": str(store_root.absolute()), "VAESEG_DB": database_url or ""}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM, "scan", *schedule.arguments, *until, "--json"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # what it did is in the database; what went wrong it says on stderr
            start_new_session=True,
        )
        self.driver = process_name(self._process.pid)

    def poll(self) -> int | None:
        """Its exit code (negative: the signal that killed it); None while it runs."""
        return self._process.poll()

    def ask_to_stop(self) -> None:
        """SIGTERM: it finishes what it can and leaves a run that can be gone on with."""
        self._process.terminate()
