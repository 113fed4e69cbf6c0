from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from ledger_factories import HEAD, scan, series_row
from sqlalchemy import create_engine, event, insert, make_url, select, text
from sqlalchemy.exc import StatementError

from vaeseg.db import session
from vaeseg.db.migrate import current_revision
from vaeseg.db.session import Database, masked, open_database, sqlite_url, utc_now
from vaeseg.db.tables import ArchiveTable, EventTable, SeriesTable
from vaeseg.errors import DatabaseAwayError, DatabaseVersionError, StoreError, UsageError
from vaeseg.io.store import Store


def _open_file(path: Path) -> Database:
    return open_database(sqlite_url(path))


def test_opening_makes_and_migrates_and_opening_again_keeps(tmp_path: Path) -> None:
    """A new file gets the tables; what was written is there the next time."""
    path = tmp_path / "r.db"
    first = _open_file(path)
    with first.write() as connection:
        connection.execute(insert(ArchiveTable).values(name="a", root="/a"))
    first.close()
    again = _open_file(path)
    with again.read() as connection:
        assert connection.scalar(select(ArchiveTable.name)) == "a"
        assert current_revision(connection) == HEAD
    again.close()


def test_sqlite_is_set_up_for_several_processes(tmp_path: Path) -> None:
    """Write-ahead log, a busy timeout and foreign keys, on every connection."""
    database = _open_file(tmp_path / "r.db")
    with database.read() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "busy_timeout", "foreign_keys", "synchronous")
        ]
    assert pragmas == ["wal", 30_000, 1, 2]
    database.close()


def test_compacting_leaves_nothing_of_what_was_deleted(tmp_path: Path) -> None:
    """Even where it was deleted without being overwritten; while somebody reads, it is refused."""
    path = tmp_path / "r.db"
    database = _open_file(path)
    with database.write() as connection:
        connection.execute(insert(ArchiveTable).values(name="deleted", root="/rubbed-out"))
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA secure_delete = OFF")
        other.execute("DELETE FROM archives")
        other.commit()
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert b"rubbed-out" in path.read_bytes()
        database.compact()
        assert b"rubbed-out" not in path.read_bytes() + path.with_name("r.db-wal").read_bytes()
        other.execute("BEGIN")
        other.execute("SELECT * FROM archives").fetchall()
        with database.read() as connection:
            connection.exec_driver_sql("PRAGMA busy_timeout = 50")
        with pytest.raises(StoreError, match="being read by another process"):
            database.compact()
    database.close()


def test_foreign_keys_hold(database: Database) -> None:
    """An event of a run that does not exist is refused."""
    with pytest.raises(StoreError, match=r"(?i)foreign key"), database.write() as connection:
        connection.execute(insert(EventTable).values(at=utc_now(), run_id="none", kind="x", detail={}))


def test_a_block_that_raises_is_rolled_back(database: Database) -> None:
    """All or nothing."""

    def add_and_fail() -> None:
        with database.write() as connection:
            connection.execute(insert(ArchiveTable).values(name="a", root="/a"))
            raise KeyError

    with pytest.raises(KeyError):
        add_and_fail()
    with database.read() as connection:
        assert connection.scalars(select(ArchiveTable.id)).all() == []


def test_a_writer_waits_for_another(database: Database) -> None:
    """Two transactions that read and then write both succeed, one after the other."""

    def add(name: str) -> None:
        with database.write() as connection:
            count = len(connection.scalars(select(ArchiveTable.id)).all())
            held.wait(0.2)
            connection.execute(insert(ArchiveTable).values(name=name, root=f"/{name}/{count}"))

    held = threading.Event()
    threads = [threading.Thread(target=add, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as connection:
        assert len(connection.scalars(select(ArchiveTable.id)).all()) == 2


def test_moments_are_utc_whatever_zone_they_come_in(database: Database) -> None:
    """02:30+01:00 is 01:30 UTC; a moment without a zone is refused."""
    local = datetime(2026, 11, 22, 2, 30, 0, 123456, tzinfo=timezone(timedelta(hours=1)))
    with database.write() as connection:
        connection.execute(insert(EventTable).values(at=local, kind="x", detail={}))
    with database.read() as connection:
        stored = connection.scalar(select(EventTable.at))
    assert stored == local
    assert stored is not None
    assert stored.tzinfo == UTC
    with pytest.raises(StatementError, match="no time zone"), database.write() as connection:
        connection.execute(insert(EventTable).values(at=local.replace(tzinfo=None), kind="x", detail={}))


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    """One clear line that names it, and not a byte changed."""
    path = tmp_path / "notes.txt"
    path.write_text("buy milk\n" * 200)
    with pytest.raises(StoreError, match=r"notes\.txt: file is not a database"):
        _open_file(path)
    assert path.read_text() == "buy milk\n" * 200


def test_another_application_s_database_is_left_alone(tmp_path: Path) -> None:
    """Its tables are named, none is added."""
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE invoices (id INTEGER)")
    connection.close()
    with pytest.raises(StoreError, match="invoices"):
        _open_file(path)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("invoices",)]
    connection.close()


def test_paths_that_cannot_be_a_database(tmp_path: Path) -> None:
    """A directory, a missing directory, and a missing file that must not be made."""
    with pytest.raises(StoreError, match="is a directory"):
        _open_file(tmp_path)
    with pytest.raises(StoreError, match="no directory"):
        _open_file(tmp_path / "gone" / "r.db")
    with pytest.raises(StoreError, match="no database at"):
        open_database(sqlite_url(tmp_path / "r.db"), create=False)
    assert not (tmp_path / "r.db").exists()


def test_a_database_that_cannot_be_written(tmp_path: Path) -> None:
    """Opened read-only: a clear line and not a traceback."""
    path = tmp_path / "r.db"
    sqlite3.connect(path).close()
    with pytest.raises(StoreError, match="readonly"):
        open_database(f"sqlite:///file:{path}?mode=ro&uri=true")


def test_a_newer_database_is_refused_by_its_revision(tmp_path: Path) -> None:
    """It says which, and what to do."""
    path = tmp_path / "r.db"
    database = _open_file(path)
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0099'"))
    database.close()
    with pytest.raises(DatabaseVersionError, match=rf"0099.*up to {HEAD}.*upgrade vaeseg"):
        _open_file(path)


@pytest.mark.parametrize("url", ["results.db", "sqlite://", "sqlite:///:memory:", "mysql://u@h/d", "://"])
def test_urls_that_are_not_supported(url: str) -> None:
    """A usage error, with an example."""
    with pytest.raises(UsageError, match="postgresql://"):
        open_database(url)


def test_a_full_disk_is_one_line_and_keeps_what_was_there(tmp_path: Path) -> None:
    """SQLite's own limit on its size stands for the disk."""
    database = _open_file(tmp_path / "r.db")
    scan(database, [series_row("1.2.3")])
    event.listen(database.engine, "begin", lambda connection: connection.exec_driver_sql("PRAGMA max_page_count = 1"))
    with pytest.raises(StoreError, match="full"):
        scan(database, [series_row(f"1.3.{n}") for n in range(2000)])
    with database.read() as connection:
        assert connection.scalars(select(SeriesTable.series_key)).all() == ["1.2.3"]
    database.close()


def test_the_store_s_database_is_beside_its_files(store: Store) -> None:
    """A path with characters that mean something in URLs survives."""
    odd = store.root / "a b%20?#"
    odd.mkdir()
    _open_file(odd / "results.db").close()
    assert (odd / "results.db").is_file()


@pytest.mark.parametrize("url", ["postgresql://u:s3cret@127.0.0.1:1/d", "postgres://u@127.0.0.1:1/d?password=s3cret"])
def test_a_server_that_is_not_there_costs_one_line_without_the_password(url: str) -> None:
    """Nobody listens on port 1; without the driver the line says how to get it."""
    with pytest.raises(StoreError) as caught:
        open_database(url)
    assert "s3cret" not in str(caught.value)
    assert "vaeseg[postgres]" in str(caught.value) or "127.0.0.1" in str(caught.value)


def test_passwords_are_masked_for_people() -> None:
    """Both ways in which a URL can hold one."""
    assert masked(make_url("postgresql+psycopg://u:s3cret@h/d")) == "postgresql://u:***@h/d"
    in_query = make_url("postgresql+psycopg://u@h/d?password=s3cret&sslmode=require")
    assert masked(in_query) == "postgresql://u@h/d?password=***&sslmode=require"


def test_what_a_server_interrupts_is_done_again(postgres_url: str) -> None:
    """A connection that is ended in the middle of a transaction leaves nothing of it, and the work goes on."""
    database = open_database(postgres_url).patient(lambda: None)
    attempts: list[int] = []

    def work() -> None:
        with database.write() as connection:
            connection.execute(insert(EventTable).values(at=utc_now(), kind="outlasted", detail={}))
            attempts.append(connection.scalar(text("SELECT pg_backend_pid()")))
            if len(attempts) == 1:
                with database.write() as other:
                    other.execute(text(f"SELECT pg_terminate_backend({attempts[0]}, 5000)"))

    database.outlasting(work)
    assert len(set(attempts)) == 2
    with database.read() as connection:
        assert len(connection.execute(select(EventTable).where(EventTable.kind == "outlasted")).all()) == 1
    database.close()


def test_a_command_does_not_wait_for_a_server(tmp_path: Path) -> None:
    """Only runs are patient; a server that is not there is one clear line, and its kind can be told."""
    with pytest.raises(DatabaseAwayError, match=r"^database postgresql://u@/nothing.*: "):
        open_database(f"postgresql://u@/nothing?host={tmp_path}")


def test_an_error_of_the_statement_is_not_waited_out(database: Database) -> None:
    """What would fail again is not done again."""
    attempts: list[int] = []

    def work() -> None:
        attempts.append(1)
        with database.write() as connection:
            connection.execute(text("SELECT nothing"))

    with pytest.raises(StoreError, match="nothing"):
        database.patient(lambda: None).outlasting(work)
    assert len(attempts) == 1


class Stopwatch:
    """In place of the module `time`: it goes on only where somebody sleeps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def stopwatch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    stopwatch = Stopwatch()
    monkeypatch.setattr(session, "time", stopwatch)
    return stopwatch


@pytest.mark.parametrize("seconds", [(301.0,), (301.0, 0.0, 301.0)], ids=["once", "again, after another long try"])
def test_patience_begins_with_a_failure(
    database: Database, stopwatch: Stopwatch, caplog: pytest.LogCaptureFixture, seconds: tuple[float, ...]
) -> None:
    """Of work that had gone well for longer than a run is patient, such as an index of hours; each is in the log."""
    left = list(seconds)

    def work() -> str:
        if not left:
            return "done"
        stopwatch.sleep(left.pop(0))
        raise DatabaseAwayError("gone")

    assert database.patient(lambda: None).outlasting(work) == "done"
    assert caplog.messages == ["gone; what it interrupted is done again"] * len(seconds)


@pytest.mark.parametrize(("seconds", "expected"), [(99.0, 4), (301.0, 11)], ids=["short tries", "long tries"])
def test_patience_ends(database: Database, stopwatch: Stopwatch, seconds: float, expected: int) -> None:
    """With a server that takes connections and ends each, as with none, and with one that ends whatever takes long; a
    command has no patience at all."""
    attempts: list[int] = []

    def work() -> None:
        attempts.append(1)
        stopwatch.sleep(seconds)
        assert len(attempts) < 100
        raise DatabaseAwayError("gone")

    with pytest.raises(DatabaseAwayError):
        database.patient(lambda: None).outlasting(work)
    assert len(attempts) == expected
    attempts.clear()
    with pytest.raises(DatabaseAwayError):
        database.outlasting(work)
    assert len(attempts) == 1


def test_a_server_that_stays_away_is_waited_for_once(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work that waited for it in vain is not done again to wait as long."""
    monkeypatch.setattr(session, "RECONNECT_SECONDS", 0.01)
    nowhere = create_engine("postgresql+psycopg://u@/x?host=/nowhere")
    attempts: list[int] = []

    def work() -> None:
        assert not attempts
        attempts.append(1)
        with database.read():
            pass

    with closing(open_database(postgres_url)) as opened:
        database = replace(opened, engine=nowhere, patience_seconds=0.1)
        with pytest.raises(DatabaseAwayError, match=r"^database postgresql://u@/x"):
            database.outlasting(work)
    assert len(attempts) == 1


def test_waiting_can_be_ended(postgres_url: str) -> None:
    """A signal in the night is not held up by a database that is away."""

    class StoppedError(Exception):
        pass

    def stop() -> None:
        raise StoppedError

    opened = open_database(postgres_url)
    database = replace(opened.patient(stop), engine=create_engine("postgresql+psycopg://u@/x?host=/nowhere"))
    with pytest.raises(StoppedError), database.read():
        pass
    opened.close()


def test_statements_are_planned_for_the_tables_as_they_are(postgres_url: str) -> None:
    """One that was prepared on the server while a table was empty would go on reading all of it."""
    with closing(open_database(postgres_url)) as database, database.read() as connection:
        for number in range(20):
            connection.execute(select(ArchiveTable.name).where(ArchiveTable.id == number))
        assert connection.scalar(text("SELECT count(*) FROM pg_prepared_statements")) == 0
