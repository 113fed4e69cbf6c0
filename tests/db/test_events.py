from __future__ import annotations

import logging
import os
import pwd
from contextlib import closing

import alembic.command
import pytest
from ledger_factories import begin_run, scan, series_row
from sqlalchemy import make_url, select, text

from vaeseg.db import events, migrate
from vaeseg.db.archives import add_archive, remove_archive
from vaeseg.db.events import account, add_event, query_detail, record_shown
from vaeseg.db.runs import cancel_run, finish_run, reopen_run
from vaeseg.db.session import Database, open_database
from vaeseg.db.tables import EventTable
from vaeseg.errors import StoreError

CHANGES = {
    "update": "UPDATE events SET actor = 'somebody else'",
    "delete": "DELETE FROM events WHERE id = 1",
    "delete all": "DELETE FROM events",
}
ON_SQLITE = {
    "replace": "INSERT OR REPLACE INTO events (id, at, kind, detail) VALUES (1, '2026-11-22', 'x', '{}')",
    "upsert": "INSERT INTO events (id, at, kind, detail) VALUES (1, '2026-11-22', 'x', '{}')"
    " ON CONFLICT (id) DO UPDATE SET kind = 'x'",
}
ON_POSTGRESQL = {
    "truncate": "TRUNCATE events",
    "upsert": "INSERT INTO events (id, at, kind, detail) VALUES (1, now(), 'x', '{}')"
    " ON CONFLICT (id) DO UPDATE SET kind = 'x'",
}


@pytest.fixture
def one_event(database: Database) -> Database:
    with database.write() as connection:
        add_event(connection, database, "archive_added", None, actor="jane")
    return database


def recorded(database: Database) -> list[tuple[str, str | None, int | None]]:
    with database.read() as connection:
        columns = select(EventTable.kind, EventTable.actor, EventTable.n_rows)
        return [tuple(row) for row in connection.execute(columns.order_by(EventTable.id))]


def test_the_database_refuses_to_change_or_delete_events(one_event: Database) -> None:
    """By whichever statement; another event can still be added."""
    is_sqlite = one_event.engine.dialect.name == "sqlite"
    for statement in (CHANGES | (ON_SQLITE if is_sqlite else ON_POSTGRESQL)).values():
        with pytest.raises(StoreError, match="events are only added, never changed or deleted"), one_event.write() as c:
            c.execute(text(statement))
    with one_event.write() as connection:
        add_event(connection, one_event, "archive_removed", None)
    assert recorded(one_event) == [("archive_added", "jane", None), ("archive_removed", None, None)]


def test_a_downgrade_takes_the_refusal_away_and_an_upgrade_brings_it_back(one_event: Database) -> None:
    """With an event in the table, which stays."""
    with one_event.write() as connection:
        alembic.command.downgrade(migrate._config(connection), "0004")
        connection.execute(text("UPDATE events SET actor = 'joan'"))
        migrate.migrate(connection)
    assert recorded(one_event) == [("archive_added", "joan", None)]
    with pytest.raises(StoreError, match="never changed"), one_event.write() as connection:
        connection.execute(text("DELETE FROM events"))


def test_the_actor_is_the_account_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user id without an account, as in a container, is its number."""
    for name in ("USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "mallory")
    assert account() == pwd.getpwuid(os.geteuid()).pw_name
    monkeypatch.setattr(events.os, "geteuid", lambda: 4_123_456)
    assert account() == "uid 4123456"


def test_commands_are_recorded_with_their_actor_and_programs_without(database: Database) -> None:
    """Who registered, started, cancelled and resumed; that a run ended is nobody's doing."""
    archive_id = scan(database, [series_row("1.2.3")])
    run_id = begin_run(database, archive_id)
    cancel_run(database, run_id)
    finish_run(database, run_id, "interrupted")
    reopen_run(database, run_id)
    add_archive(database, "ward", "/ward")
    remove_archive(database, "ward")
    assert [(kind, actor) for kind, actor, _ in recorded(database)] == [
        ("run_started", account()),
        ("run_cancel_requested", account()),
        ("run_interrupted", None),
        ("run_resumed", account()),
        ("archive_added", account()),
        ("archive_removed", account()),
    ]


def test_what_was_shown_is_recorded_with_its_rows(database: Database) -> None:
    """And by whom."""
    record_shown(database, "findings_shown", 12, {"format": "csv"})
    assert recorded(database) == [("findings_shown", account(), 12)]


def test_a_reader_who_cannot_write_events_is_not_held_up(
    database_url: str, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """A role that may only read, and a session that is read-only: nothing is recorded here, and it is said so."""
    caplog.set_level(logging.INFO)
    if database.engine.dialect.name == "sqlite":
        with database.read() as connection:
            connection.execute(text("PRAGMA query_only = ON"))
        record_shown(database, "findings_shown", 1, {})
    else:
        make_reader(database)
        for option in ("-c role=vaeseg_test_reader", "-c default_transaction_read_only=on"):
            url = make_url(database_url).update_query_dict({"options": option}).render_as_string(hide_password=False)
            with closing(open_database(url)) as reader:
                record_shown(reader, "findings_shown", 1, {})
    assert recorded(database) == []
    assert "findings_shown is not recorded" in caplog.text


def make_reader(database: Database) -> None:
    with database.write() as connection:
        if connection.scalar(text("SELECT 1 FROM pg_roles WHERE rolname = 'vaeseg_test_reader'")) is None:
            connection.execute(text("CREATE ROLE vaeseg_test_reader"))
        connection.execute(text("GRANT USAGE ON SCHEMA public TO vaeseg_test_reader"))
        connection.execute(text("GRANT SELECT ON ALL TABLES IN SCHEMA public TO vaeseg_test_reader"))


def test_what_cannot_be_recorded_is_not_shown(database: Database) -> None:
    """Any other failure to record stops the command before it prints."""
    with database.write() as connection:
        connection.execute(text("DROP TABLE events"))
    with pytest.raises(StoreError, match="events"):
        record_shown(database, "findings_shown", 1, {})


def test_of_a_query_its_tables_are_kept_and_not_its_text(database: Database) -> None:
    """A subject key in it, or anything else that was typed, is in the digest alone."""
    query = "SELECT * FROM Latest_Findings JOIN lesions ON 1 = 1 WHERE subject_key = 'c0ffee' -- of Jane Doe"
    kept = query_detail(database, query)
    assert kept == {
        "sha256": "f84ef49f81db89aa2e51a6f184faa06f0cff871e1b19f951b31b0f04c024ff01",
        "n_characters": len(query),
        "relations": ["latest_findings", "lesions"],
    }
