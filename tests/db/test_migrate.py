from __future__ import annotations

import alembic.command
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from ledger_factories import HEAD, ROOT, begin_run, failed, scan, segmented, series_row
from sqlalchemy import CheckConstraint, Connection, insert, inspect, select, text

from vaeseg.db import migrate as migrate_module
from vaeseg.db.index_series import readable_series
from vaeseg.db.migrate import current_revision, known_revisions, migrate, migrations_directory
from vaeseg.db.session import Database, open_database
from vaeseg.db.tables import ArchiveTable, Base
from vaeseg.db.views import VIEWS
from vaeseg.db.work import plan_work
from vaeseg.distributed.commit import commit_group
from vaeseg.io.store import Store

DATA_0001 = (
    f"INSERT INTO archives (id, name, root) VALUES (1, 'a', '{ROOT}')",
    "INSERT INTO series (id, archive_id, series_key, series_instance_uid, study_instance_uid, verdict, warnings,"
    " n_instances, n_files, fingerprint, first_seen_at, last_seen_at) VALUES (1, 1, '1.2.3', '1.2.3', '1.2',"
    " 'readable', '[]', 1, 1, 'f', '2026-11-22 01:30:00', '2026-11-22 01:30:00')",
    "INSERT INTO instances (id, archive_id, path, size, mtime_ns, series_id) VALUES (1, 1, 'x', 1, 1, 1)",
)


def test_the_migrations_make_what_the_models_say(database: Database) -> None:
    """Tables, columns, types, NULLs, indexes, unique and foreign keys: no difference."""
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_the_migrations_make_every_check_constraint(database: Database) -> None:
    """Alembic does not compare these: by name, table by table."""
    with database.read() as connection:
        inspector = inspect(connection)
        for table in Base.metadata.sorted_tables:
            wanted = {str(check.name) for check in table.constraints if isinstance(check, CheckConstraint)}
            assert {check["name"] for check in inspector.get_check_constraints(table.name)} == wanted, table.name


def test_the_migrations_make_the_views_that_the_models_describe(database: Database) -> None:
    """Each of them and no other, column by column."""
    with database.read() as connection:
        inspector = inspect(connection)
        made = {name: [column["name"] for column in inspector.get_columns(name)] for name in inspector.get_view_names()}
    assert made == {name: view.columns.keys() for name, view in VIEWS.tables.items()}


def test_scripts_are_named_after_their_revisions_and_make_one_line(database: Database) -> None:
    """What is known of a database without Alembic is what Alembic says."""
    with database.read() as connection:
        line = list(ScriptDirectory.from_config(migrate_module._config(connection)).walk_revisions())
        assert known_revisions() == [script.revision for script in line][::-1]
        assert current_revision(connection) == MigrationContext.configure(connection).get_current_revision()


def test_downgrade_leaves_nothing_behind_and_upgrade_works_again(database: Database) -> None:
    """Down to the empty database and up."""
    with database.write() as connection:
        alembic.command.downgrade(migrate_module._config(connection), "base")
        assert set(inspect(connection).get_table_names()) <= {"alembic_version"}
        assert inspect(connection).get_view_names() == []
    with database.write() as connection:
        migrate(connection)
        assert current_revision(connection) == HEAD


def test_every_revision_is_upgraded_with_data_in_it(database: Database) -> None:
    """0001: a series with a finding keeps it, and is missing until the next scan finds its files; rows of files go."""
    with database.write() as connection:
        alembic.command.downgrade(migrate_module._config(connection), "0001")
        for statement in DATA_0001:
            connection.execute(text(statement))
    with database.write() as connection:
        migrate(connection)
        series = connection.execute(text("SELECT series_key, group_key, missing_since, judged_at FROM series")).one()
        assert connection.scalar(text("SELECT count(*) FROM instances")) == 0
        assert connection.execute(text("SELECT name, label_root, removed_at FROM archives")).one() == ("a", None, None)
    assert (series.series_key, series.group_key) == ("1.2.3", "")
    assert series.missing_since == series.judged_at
    archive_id = scan(database, [series_row("1.2.3")])
    assert [name.series_key for name in readable_series(database, archive_id)] == ["1.2.3"]


@pytest.mark.parametrize("revision", ["0002", "0003", "0004", "0005", "0006"])
def test_later_revisions_are_upgraded_with_findings_in_them(database: Database, store: Store, revision: str) -> None:
    """Series, files, work and findings are what they were, and the ledger still knows what is done."""
    run_id = begin_run(database, scan(database, [series_row("1.2.3"), series_row("1.2.4")], junk=1))
    one, two = plan_work(database, run_id, ["1.2.3", "1.2.4"]).pending
    commit_group(run_id, [(one, segmented(one)), (two, failed(two))], store, database)
    tables = ("series", "instances", "work_items", "findings", "lesions", "parts")
    before = {table: _rows(database, table) for table in tables}
    with database.write() as connection:
        alembic.command.downgrade(migrate_module._config(connection), revision)
    with database.write() as connection:
        migrate(connection)
        assert current_revision(connection) == HEAD
    assert {table: _rows(database, table) for table in tables} == before
    again = plan_work(database, run_id, ["1.2.3", "1.2.4"])
    assert (again.already_done, again.left_out) == (("1.2.3",), ("1.2.4",))


def _rows(database: Database, table: str) -> list[tuple[object, ...]]:
    with database.read() as connection:
        return [tuple(row) for row in connection.execute(select(Base.metadata.tables[table]).order_by(text("1, 2")))]


def test_an_interrupted_migration_leaves_an_empty_database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are made in the same transaction as the revision: killed half-way, the next start begins afresh."""

    def upgrade_and_die(config: object, revision: str) -> None:
        real(config, revision)
        raise KeyboardInterrupt

    real = alembic.command.upgrade
    monkeypatch.setattr(alembic.command, "upgrade", upgrade_and_die)
    with pytest.raises(KeyboardInterrupt):
        open_database(database_url)
    monkeypatch.undo()
    database = open_database(database_url)
    with database.write() as connection:
        connection.execute(insert(ArchiveTable).values(name="a", root="/a"))
    database.close()


def test_a_migrated_database_is_not_touched_again(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command opens the database; only the first migrates it."""

    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(alembic.command, "upgrade", refuse)
    with database.write() as connection:
        migrate(connection)


def _released(connection: Connection) -> str:
    return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one())


def test_scripts_are_found_and_hold_the_released_revisions(database: Database) -> None:
    """Beside the package in a checkout; released revisions never change their number."""
    assert (migrations_directory() / "versions" / "0001_initial.py").is_file()
    with database.read() as connection:
        assert _released(connection) == HEAD
