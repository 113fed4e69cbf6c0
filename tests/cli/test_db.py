from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import alembic.command
import pytest
from click.testing import CliRunner, Result
from ledger_factories import HEAD, scan, series_row
from sqlalchemy import text

from vaeseg.cli import main
from vaeseg.db import migrate as migrate_module
from vaeseg.db.session import Database, open_database
from vaeseg.io.store import Store


def db(url: str, *arguments: str) -> Result:
    return CliRunner(env={"VAESEG_DB": url}).invoke(main, ["db", *arguments])


def test_a_database_of_this_version_is_sound(database: Database, database_url: str) -> None:
    """With rows in it, on both databases."""
    scan(database, [series_row("1.2.3")], junk=1)
    assert db(database_url, "current").stdout == f"database {HEAD}, this version {HEAD}\n"
    assert db(database_url, "upgrade").stdout == f"revision {HEAD}, as it was\n"
    checked = db(database_url, "check", "--json")
    assert (checked.exit_code, json.loads(checked.stdout)) == (0, {"sound": True, "differences": []})


def test_an_older_database_is_named_and_upgraded(database: Database, database_url: str) -> None:
    """`current` and `check` leave it as it is."""
    with database.write() as connection:
        alembic.command.downgrade(migrate_module._config(connection), "0002")
    checked = db(database_url, "check")
    assert (checked.exit_code, checked.stdout) == (1, f"the database is at revision 0002, this version at {HEAD}\n")
    assert json.loads(db(database_url, "current", "--json").stdout) == {"database": "0002", "version": HEAD}
    assert db(database_url, "upgrade").stdout == f"revision {HEAD}, was 0002\n"
    assert db(database_url, "check").exit_code == 0


def test_every_difference_is_named(database: Database, database_url: str) -> None:
    """A lost view, index and column, a new column and another type, one line each."""
    double = "DOUBLE PRECISION" if database.engine.dialect.name == "postgresql" else "FLOAT"
    with database.write() as connection:
        for statement in (
            "DROP VIEW coverage",
            "DROP INDEX ix_findings_created_at",
            "ALTER TABLE schedules DROP COLUMN timezone",
            "ALTER TABLE schedules ADD COLUMN colour TEXT",
            "ALTER TABLE schedules DROP COLUMN cron",
            f"ALTER TABLE schedules ADD COLUMN cron {double} NOT NULL DEFAULT 0",
        ):
            connection.execute(text(statement))
    checked = db(database_url, "check")
    assert checked.exit_code == 1
    lines = set(checked.stdout.splitlines())
    assert lines >= {
        "view coverage is missing",
        "index ix_findings_created_at is missing",
        "column schedules.timezone is missing",
        "column schedules.colour should not be there",
    }
    (of_type,) = [line for line in lines if line.startswith("column schedules.cron differs: type is")]
    assert of_type.endswith("should be TEXT")


def test_tables_of_others_on_the_server_are_not_judged(database: Database, database_url: str) -> None:
    """They may live in the same schema."""
    with database.write() as connection:
        connection.execute(text("CREATE TABLE lunch (day TEXT)"))
    assert db(database_url, "check").exit_code == 0


def test_references_into_nothing_are_named(store: Store) -> None:
    """SQLite keeps no foreign keys for a program that does not ask for it."""
    url = f"sqlite:///{store.database_path}"
    open_database(url).close()
    with closing(sqlite3.connect(store.database_path)) as connection, connection:
        connection.execute("INSERT INTO changed_groups VALUES (7, 'g')")
    checked = db(url, "check")
    assert checked.exit_code == 1
    assert "of changed_groups refers to a row of archives that is not there" in checked.stdout


@pytest.mark.parametrize("arguments", [["current"], ["check"], ["upgrade"]])
def test_no_database_and_no_store(store: Store, arguments: list[str]) -> None:
    """A file that is not there is an error, and is not made; a store that is not there is a usage error."""
    gone = store.root / "gone.db"
    assert db(f"sqlite:///{gone}", *arguments).exit_code == 1
    assert CliRunner(env={"VAESEG_DB": ""}).invoke(main, ["db", *arguments, "--store", str(gone)]).exit_code == 2
    assert not gone.exists()


def test_the_script_of_roles_is_printed() -> None:
    """For psql."""
    assert "CREATE ROLE vaeseg_reader" in db("", "roles").stdout
