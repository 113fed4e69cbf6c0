"""`vaeseg-batch scheduler` as a process of its own, with real scans."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from vaeseg.db.archives import add_archive
from vaeseg.db.schedules import add_schedule, schedule_named
from vaeseg.db.session import open_database, sqlite_url
from vaeseg.db.tables import ScheduleTable
from vaeseg.io.store import Store
from vaeseg.timetable import Timetable

LAST_NIGHT = Timetable(cron="0 0 1 * *")
"""Long past, and not again while this test runs."""


@pytest.fixture
def planned(store: Store, archive: Path, model_path: Path) -> Store:
    """A store with a schedule whose time has passed while no scheduler ran."""
    with closing(open_database(sqlite_url(store.database_path))) as database:
        ward = add_archive(database, "ward", str(archive / "dicom"))
        options = {"--model": str(model_path), "--stable-for": "0"}
        add_schedule(database, "nightly", ward, LAST_NIGHT, options)
        with database.write() as connection:
            connection.execute(update(ScheduleTable).values(handled_until=datetime.now(UTC) - timedelta(days=40)))
    return store


class Service:
    """The process and what it says."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self._log = process, log

    @property
    def said(self) -> str:
        return self._log.read_text()

    def wait_until_it_says(self, what: str, seconds: float = 240.0) -> None:
        deadline = time.monotonic() + seconds
        while what not in self.said:
            assert time.monotonic() < deadline, self.said
            assert self.process.poll() is None, self.said
            time.sleep(0.1)

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextmanager
def scheduler(store: Store, log: Path) -> Iterator[Service]:
    command = [sys.executable, "-c", "from vaeseg.cli import main; main()", "scheduler", "--store", str(store.root)]
    environment = os.environ | {"VAESEG_DB": "", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as stderr, subprocess.Popen(command, stderr=stderr, env=environment) as process:
        try:
            yield Service(process, log)
        finally:
            process.kill()


@pytest.mark.slow
def test_a_missed_night_is_caught_up_and_the_scheduler_ends_cleanly(
    planned: Store, archive: Path, tmp_path: Path
) -> None:
    """Stopped when a scan has begun, it stops that too, exits with 0, and the next one does that night; once."""
    with scheduler(planned, tmp_path / "1.log") as service:
        service.wait_until_it_says("scan of archive ward starts")
        assert service.end() == 0
        assert "its time is due again" in service.said
    with scheduler(planned, tmp_path / "2.log") as service:
        service.wait_until_it_says("exit code 0")
        assert "finished (3 segmented)" in service.said
        assert service.end() == 0
    assert str(archive) not in service.said
    assert "Traceback" not in service.said
    with closing(open_database(sqlite_url(planned.database_path))) as database:
        schedule = schedule_named(database, "nightly")
    assert schedule.last_run_id is not None
    assert schedule.last_run_id in service.said
    assert schedule.timetable.due(schedule.handled_until, datetime.now(UTC)) is None
    assert statuses(planned)[-1] == "finished"


def statuses(store: Store) -> list[str]:
    with closing(sqlite3.connect(store.database_path)) as connection:
        return [status for (status,) in connection.execute("SELECT status FROM runs ORDER BY id")]
