"""A database across a network that is cut while a run writes: the run notices, and its locks do not outlive it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from namespaces import Network, reason_against
from networked import NetworkedPostgres
from sqlalchemy import text

from vaeseg.db import silence
from vaeseg.db.session import Database, unmigrated_database
from vaeseg.errors import DatabaseAwayError, StoreError

pytestmark = pytest.mark.skipif(bool(reason_against()), reason=reason_against() or "there can be a network")

SECONDS = {"SILENCE_SECONDS": 4, "IDLE_SECONDS": 2, "INTERVAL_SECONDS": 1, "PROBES": 2}


@pytest.fixture
def network() -> Iterator[Network]:
    laid = Network("head", "other", "db")
    yield laid
    laid.remove()


@pytest.fixture
def postgres_away(network: Network) -> Iterator[NetworkedPostgres]:
    with TemporaryDirectory(prefix="vaeseg-postgres-") as directory:
        Path(directory).chmod(0o755)
        server = NetworkedPostgres(network, "db", Path(directory))
        yield server
        server.stop()


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECONDS.items():
        monkeypatch.setattr(silence, name, value)


def locked(network: Network, host: str, database: Database, value: int) -> None:
    """Write, and commit, a row that others want to write too."""
    with network.inside(host), database.write() as connection:
        connection.execute(text("SET LOCAL lock_timeout = '25s'"))
        connection.execute(text(f"UPDATE wanted SET value = {value}"))


def test_neither_end_waits_for_a_network_that_was_cut(network: Network, postgres_away: NetworkedPostgres) -> None:
    """A run that holds locks is cut off: another gets them within seconds, and it is told that the database is away.

    Without being told to, Linux would wait for a quarter of an hour, and the server for two hours.
    """
    with (
        closing(unmigrated_database(postgres_away.url)) as cut_off,
        closing(unmigrated_database(postgres_away.url)) as other,
    ):
        with network.inside("other"), other.write() as connection:
            connection.execute(text("CREATE TABLE wanted (value integer)"))
            connection.execute(text("INSERT INTO wanted VALUES (0)"))
        started, waited_seconds = time.monotonic(), list[float]()
        with pytest.raises(DatabaseAwayError), network.inside("head"):
            cut_while_it_writes(network, cut_off, other, waited_seconds)
        assert waited_seconds[0] < 20.0
        assert time.monotonic() - started < 40.0
        network.mend("head")
        locked(network, "head", cut_off, 3)


def cut_while_it_writes(network: Network, cut_off: Database, other: Database, waited_seconds: list[float]) -> None:
    """Take a lock, be cut off, see how long another waits for the lock, and go on."""
    with cut_off.write() as connection:
        connection.execute(text("UPDATE wanted SET value = 1"))
        network.cut("head", "db")
        started = time.monotonic()
        with suppress(StoreError):
            locked(network, "other", other, 2)
        waited_seconds.append(time.monotonic() - started)
        connection.execute(text("SELECT 1"))
