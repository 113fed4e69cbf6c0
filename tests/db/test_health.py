"""What is wrong with a database is found before a night, on both kinds."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import alembic.command
import pytest
from ledger_factories import HEAD, ROOT, Clock, begin_run, scan, series_row
from sqlalchemy import func, select, text

from vaeseg.checks import Check
from vaeseg.db import migrate as migrate_module
from vaeseg.db.archives import add_archive, ensure_archive
from vaeseg.db.drivers import take_archive
from vaeseg.db.health import LedgerFacts, database_checks, ledger_facts
from vaeseg.db.runs import finish_run, start_run
from vaeseg.db.session import Database, unmigrated_database
from vaeseg.db.tables import ModelTable
from vaeseg.errors import StoreError


def found(database: Database) -> dict[str, Check]:
    return {check.name: check for check in database_checks(database)}


def test_a_database_of_this_version_is_well(database: Database) -> None:
    """Its kind is told, and the row that was tried is not there."""
    checks = found(database)
    assert {name: check.status for name, check in checks.items()} == dict.fromkeys(
        ("database", "schema", "database_write", "runs"), "ok"
    )
    assert checks["database"].found.startswith(("SQLite, sqlite:///", "PostgreSQL, postgresql://"))
    with database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(ModelTable)) == 0


def test_an_older_revision_is_told(database: Database) -> None:
    """Every command upgrades SQLite; PostgreSQL is its owner's to upgrade."""
    with database.write() as connection:
        alembic.command.downgrade(migrate_module._config(connection), "0002")
    checks = found(database)
    assert set(checks) == {"database", "schema"}
    is_server = database.engine.dialect.name == "postgresql"
    assert checks["schema"].status == ("failed" if is_server else "warning")
    assert checks["schema"].found == f"revision 0002, this version has {HEAD}"
    assert "db upgrade" in checks["schema"].advice


def test_a_newer_revision_has_failed(database: Database) -> None:
    """It is not written to, and not asked further."""
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    checks = found(database)
    assert (checks["schema"].status, "upgrade vaeseg" in checks["schema"].advice) == ("failed", True)
    assert "database_write" not in checks


def test_a_database_that_takes_no_transaction_has_failed(database: Database) -> None:
    """One that can only be read, as a replica or a read-only mount."""
    read_only = {"sqlite": "PRAGMA query_only = ON", "postgresql": "SET default_transaction_read_only = on"}
    with closing(database.engine.raw_connection()) as connection:
        connection.cursor().execute(read_only[database.engine.dialect.name])
        connection.commit()
    check = found(database)["database_write"]
    assert (check.status, "read" in check.found) == ("failed", True)


def test_a_server_that_is_not_there_raises_in_time() -> None:
    """Its password is not in the message."""
    with (
        closing(unmigrated_database("postgresql://vaeseg:secret77@127.0.0.1:1/night")) as dead,
        pytest.raises(StoreError, match="refused") as raised,
    ):
        list(database_checks(dead))
    assert "secret77" not in str(raised.value)


def test_a_run_without_its_driver_is_told_with_what_it_holds(database: Database, clock: Clock) -> None:
    """How to go on with it; one that lives or has ended is not told."""
    archive_id = scan(database, [series_row("1.2.3")])
    finish_run(database, begin_run(database, archive_id), "interrupted")
    lost = begin_run(database, archive_id)
    take_archive(database, archive_id, lost)
    assert found(database)["runs"].found == "1 under way, none without its driver"
    clock.advance(61)
    check = found(database)["runs"]
    assert check.status == "warning"
    assert f"run {lost} (segment) lost its driver after 2026-11-22 01:30 UTC, and holds archive archive-" in check.found
    assert check.advice == f"'vaeseg-batch resume {lost}' goes on with it"


def test_a_lost_training_is_no_run_to_resume(database: Database, clock: Clock) -> None:
    """Its command is given again."""
    values: dict[str, Any] = {"archive_id": None, "model_digest": None, "config_json": "{}", "config_digest": ""}
    start_run(database, kind="train_vae", **values)
    clock.advance(61)
    assert found(database)["runs"].advice == "give its command again"


def test_facts_tell_archives_and_whether_a_key_is_in_use(database: Database) -> None:
    """An archive that somebody registered from a directory that was submitted; files that are gone are not counted."""
    assert ledger_facts(database) == LedgerFacts(identity=ledger_facts(database).identity)
    scan(database, [series_row("1.2.3")], junk=2)
    add_archive(database, "ward", "/archive/ward")
    facts = ledger_facts(database)
    assert facts.holds_subjects
    submitted, ward = facts.archives
    assert (submitted.root, submitted.n_files, submitted.is_registered) == (ROOT, 5, False)
    assert (ward.name, ward.n_files, ward.is_registered) == ("ward", 0, True)


def test_the_identity_of_a_database_is_its_own(database: Database, clock: Clock) -> None:
    """The first run and the archives make it; later runs leave it alone."""
    identities = [ledger_facts(database).identity]
    archive_id = ensure_archive(database, ROOT)
    identities.append(ledger_facts(database).identity)
    begin_run(database, archive_id)
    identities.append(ledger_facts(database).identity)
    assert len(set(identities)) == 3
    clock.advance(1)
    begin_run(database, archive_id)
    assert ledger_facts(database).identity == identities[-1]
