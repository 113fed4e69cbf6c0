"""`vaeseg-batch exporter` as a process of its own, scraped over HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from exporting import arguments, exporter
from ledger_factories import ROOT, scan, series_row
from postgres import start_server

from vaeseg.db.archives import add_archive
from vaeseg.db.migrate import _config
from vaeseg.db.session import open_database, sqlite_url, unmigrated_database
from vaeseg.io.store import Store


def refused(*given: str) -> tuple[int, str]:
    """Exit code and standard error of one that cannot start."""
    environment = os.environ | {"VAESEG_DB": "", "VAESEG_STORE": ""}
    ended = subprocess.run(arguments(*given), capture_output=True, text=True, env=environment, timeout=60, check=False)
    return ended.returncode, ended.stderr


@pytest.fixture
def ward(store: Store) -> Store:
    """A store with an archive of one series."""
    with closing(open_database(sqlite_url(store.database_path))) as database:
        add_archive(database, "ward", ROOT)
        scan(database, [series_row("1.2.1")])
    return store


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A PostgreSQL of its own, that may be stopped."""
    own = start_server(tmp_path_factory.mktemp("outage"))
    yield own
    own.start()  # its end needs it running
    own.cleanup()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_scrape_over_http_and_a_clean_end(ward: Store, tmp_path: Path, number: signal.Signals) -> None:
    """On loopback; what changes in the database is in a later scrape; a signal ends it with 0."""
    with exporter(tmp_path / "log", "--store", str(ward.root)) as service:
        pending = 'vaeseg_series_current{archive="ward",category="pending"}'
        assert service.scrape()[pending] == "1.0"
        with closing(open_database(sqlite_url(ward.database_path))) as database:
            scan(database, [series_row("1.2.2")])
        service.wait_until(lambda: service.scrape()[pending] == "2.0")
        assert service.end(number) == 0
        assert service.said.splitlines()[-1].endswith("exporter: ended")
        assert "Traceback" not in service.said


def test_it_listens_on_loopback_alone(ward: Store, tmp_path: Path) -> None:
    """Another address of this machine does not answer."""
    with exporter(tmp_path / "log", "--store", str(ward.root)) as service:
        with socket.create_connection(("127.0.0.1", service.port), timeout=10):
            pass
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.2", service.port), timeout=10):
            pass


def test_it_outlives_its_database(server: Any, tmp_path: Path) -> None:
    """Stopped, PostgreSQL's numbers are absent; started, they are back, and the process is the same."""
    with closing(open_database(server.get_uri())) as database:
        add_archive(database, "ward", ROOT)
        scan(database, [series_row("1.2.1")])
    with exporter(tmp_path / "log", "--db", server.get_uri()) as service:
        before = service.scrape()
        assert before["vaeseg_database_up"] == "1.0"
        server.stop()
        service.wait_until(lambda: service.scrape()["vaeseg_database_up"] == "0.0")
        assert not any("ward" in name for name in service.scrape())
        server.start()
        service.wait_until(lambda: service.scrape()["vaeseg_database_up"] == "1.0")
        assert service.scrape().keys() == before.keys()
        assert (service.said.count("looks again"), service.said.count("the database is back")) == (1, 1)
        assert service.end(signal.SIGTERM) == 0
        assert "Traceback" not in service.said


def test_clients_that_misbehave_cost_nothing(ward: Store, tmp_path: Path) -> None:
    """Those that say nothing, go away in the middle, or speak no HTTP; the next scrape is answered."""
    with exporter(tmp_path / "log", "--store", str(ward.root)) as service:
        silent = [socket.create_connection(("127.0.0.1", service.port), timeout=10) for _ in range(20)]
        for words in (b"GET /metrics HTTP/1.1\r\n", b"\x16\x03\x01\x00\xff" * 10 + b"\r\n\r\n", b""):
            with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
                client.sendall(words)
        assert service.scrape()["vaeseg_database_up"] == "1.0"
        for client in silent:
            client.close()
        assert service.scrape()["vaeseg_database_up"] == "1.0"
        assert service.said.count("\n") == 1


def test_what_cannot_start_says_why(ward: Store, tmp_path: Path) -> None:
    """One line and the exit code: a port in use, a host that is not here, no store, a database to be upgraded."""
    with exporter(tmp_path / "log", "--store", str(ward.root)) as service:
        code, said = refused("--store", str(ward.root), f"--port={service.port}")
        assert (code, said.count("\n")) == (1, 1)
        assert f"port {service.port} of 127.0.0.1 is in use" in said
    code, said = refused("--store", str(ward.root), "--host=203.0.113.1")
    assert (code, said.count("\n")) == (2, 1)
    assert "--host 203.0.113.1" in said
    code, said = refused("--store", str(tmp_path / "nowhere"))
    assert (code, said.count("\n")) == (2, 1)
    assert not (tmp_path / "nowhere").exists()
    with closing(unmigrated_database(sqlite_url(ward.database_path))) as database, database.write() as connection:
        command.downgrade(_config(connection), "-1")
    code, said = refused("--store", str(ward.root))
    assert (code, said.count("\n")) == (1, 1)
    assert "'vaeseg-batch db upgrade'" in said
