"""The roles of PostgreSQL: what each may do, tried on a real server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import date

import alembic.command
import pytest
from click.testing import CliRunner
from ledger_factories import Clock, begin_run, failed, scan, segmented, series_row
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError

from vaeseg.cli import main
from vaeseg.cli.options import opened_to_watch
from vaeseg.db import migrate as migrate_module
from vaeseg.db.answers import Question
from vaeseg.db.ask import ask
from vaeseg.db.drivers import hand_over, heartbeat, take_archive, take_up
from vaeseg.db.findings import query_findings
from vaeseg.db.health import database_checks
from vaeseg.db.migrate import roles_script
from vaeseg.db.runs import finish_run
from vaeseg.db.session import Database, open_database, unmigrated_database
from vaeseg.db.tables import Base
from vaeseg.db.views import VIEWS
from vaeseg.db.watch import take_snapshot
from vaeseg.db.work import plan_work
from vaeseg.distributed.commit import commit_group
from vaeseg.errors import StoreError, UsageError
from vaeseg.io.store import Store

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)

PASSWORD = "of the tests"

REFUSED = (
    "INSERT INTO events (at, kind, detail) VALUES (now(), 'x', '{}')",
    "INSERT INTO latest_findings (id) VALUES (1)",
    "UPDATE findings SET tumour_volume_ml = 0",
    "UPDATE latest_findings SET tumour_volume_ml = 0",
    "DELETE FROM findings",
    "TRUNCATE events",
    "CREATE TABLE mine (x int)",
    "CREATE TEMPORARY TABLE mine (x int)",
    "CREATE VIEW mine AS SELECT 1 AS one",
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "DROP VIEW latest_findings",
    "DROP TABLE events",
    "ALTER TABLE findings ADD COLUMN x int",
    "SET ROLE vaeseg_writer",
    "SELECT nextval('findings_id_seq')",
)


def run_script(url: str) -> None:
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        connection.execution_options(no_parameters=True).exec_driver_sql(roles_script())
        for role in ("vaeseg_reader", "vaeseg_writer"):
            connection.exec_driver_sql(f"ALTER ROLE {role} PASSWORD '{PASSWORD}'")
    engine.dispose()


@pytest.fixture
def owned(database_url: str) -> Iterator[str]:
    """URL of a migrated database after the script ran twice; its roles are gone afterwards."""
    with closing(open_database(database_url)):
        run_script(database_url)
        run_script(database_url)
    yield database_url
    engine = create_engine(make_url(database_url).set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        for role in ("vaeseg_reader", "vaeseg_writer"):
            connection.exec_driver_sql(f"DROP OWNED BY {role}")
            connection.exec_driver_sql(f"DROP ROLE {role}")
        name = make_url(database_url).database
        connection.exec_driver_sql(f'GRANT TEMPORARY ON DATABASE "{name}" TO PUBLIC')
    engine.dispose()


def url_of(url: str, role: str) -> str:
    return make_url(url).set(username=role, password=PASSWORD).render_as_string(hide_password=False)


def engine_of(url: str, role: str) -> Engine:
    return create_engine(make_url(url_of(url, role)).set(drivername="postgresql+psycopg"))


def refusal(engine: Engine, statement: str) -> str:
    """SQLSTATE with which a statement is refused; the test fails if it is not."""
    with pytest.raises(DBAPIError) as caught, engine.begin() as connection:
        connection.execute(text(statement))
    return str(getattr(caught.value.orig, "sqlstate", None))


def test_the_reader_sees_views_and_can_change_nothing(owned: str) -> None:
    """Every table is closed to it, every view open, and every way to change something is refused."""
    engine = engine_of(owned, "vaeseg_reader")
    for table in [*Base.metadata.tables, "alembic_version"]:
        assert refusal(engine, f"SELECT * FROM {table}") == "42501", table
    for statement in REFUSED:
        assert refusal(engine, statement) in ("42501", "55000"), statement
    with engine.begin() as connection:
        for view in VIEWS.tables:
            assert connection.execute(text(f"SELECT * FROM {view}")).all() == []
    engine.dispose()


def test_the_exporter_looks_as_the_writer_and_not_as_the_reader(owned: str, store: Store) -> None:
    """It changes nothing, and needs tables that only the writer may read."""
    with opened_to_watch(store.root, url_of(owned, "vaeseg_writer")) as database:
        assert take_snapshot(database, 10.0).counts.archives == ()
    with (
        pytest.raises(StoreError, match="permission denied"),
        opened_to_watch(store.root, url_of(owned, "vaeseg_reader")),
    ):
        pass


def test_the_writer_does_a_scan_and_cannot_rewrite_events(owned: str, store: Store, clock: Clock) -> None:
    """Index, plan, commit and finish as the writer; what happened stays as it was recorded."""
    with closing(open_database(url_of(owned, "vaeseg_writer"), now=clock)) as database:
        do_a_scan(database, store)
        assert len(query_findings(database)) == 2
    engine = engine_of(owned, "vaeseg_writer")
    for statement in (
        "UPDATE events SET kind = 'x'",
        "DELETE FROM events",
        "TRUNCATE events",
        "ALTER TABLE events ADD COLUMN x int",
        "DROP TABLE findings",
        "CREATE TABLE mine (x int)",
        "UPDATE alembic_version SET version_num = 'x'",
    ):
        assert refusal(engine, statement) == "42501", statement
    with engine.begin() as connection:
        assert connection.scalar(text("SELECT count(*) FROM events")) >= 2
    engine.dispose()


def test_the_writer_is_all_that_a_night_needs(owned: str) -> None:
    """As `doctor` sees it; the reader may not even see what the database is at."""
    with closing(unmigrated_database(url_of(owned, "vaeseg_writer"))) as database:
        assert {check.status for check in database_checks(database)} == {"ok"}
    with (
        closing(unmigrated_database(url_of(owned, "vaeseg_reader"))) as database,
        pytest.raises(StoreError, match="permission denied"),
    ):
        list(database_checks(database))


def do_a_scan(database: Database, store: Store) -> None:
    rows = [series_row(f"1.2.{n}", study_date=date(2026, 1, 1)) for n in range(2)]
    run_id = begin_run(database, scan(database, rows, junk=1))
    hand_over(database, run_id)
    take_up(database, run_id)
    take_archive(database, 1, run_id)
    one, two = plan_work(database, run_id, ["1.2.0", "1.2.1"]).pending
    heartbeat(database, run_id)
    commit_group(run_id, [(one, segmented(one)), (two, failed(two))], store, database)
    finish_run(database, run_id, "finished")


def test_questions_are_asked_as_the_reader(owned: str, store: Store) -> None:
    """By the reader itself, by the writer, and by the owner: each sees views, and no table."""
    with closing(open_database(owned)) as database:
        do_a_scan(database, store)
    for url in (url_of(owned, "vaeseg_reader"), url_of(owned, "vaeseg_writer"), owned):
        question = Question(statement="SELECT tumour_volume_ml FROM tumour_volume_trend", limit=5, timeout_seconds=10)
        assert ask(url, question).rows == ((3.0,),)
        with pytest.raises(UsageError, match="permission denied"):
            ask(url, Question(statement="SELECT path FROM instances", limit=5, timeout_seconds=10))


def test_the_command_answers_the_reader_and_records_the_writer(owned: str, store: Store) -> None:
    """What the reader asks is in the server's log alone; what the writer asks is an event, without the text."""
    with closing(open_database(owned)) as database:
        do_a_scan(database, store)
    statement = "SELECT tumour_volume_ml FROM tumour_volume_trend"
    for role in ("vaeseg_reader", "vaeseg_writer"):
        answered = CliRunner().invoke(main, ["query", statement, "--json", "--db", url_of(owned, role)])
        assert (answered.exit_code, answered.output) == (0, '[{"tumour_volume_ml": 3.0}]\n')
    with closing(open_database(owned)) as database, database.read() as connection:
        shown = connection.execute(text("SELECT n_rows, detail FROM events WHERE kind = 'query_shown'")).all()
    ((n_rows, detail),) = shown
    assert (n_rows, detail["relations"]) == (1, ["tumour_volume_trend"])
    assert "SELECT" not in str(detail)


def test_an_upgrade_grants_what_is_new(owned: str) -> None:
    """Views that a migration makes are the reader's; only the owner can run it, and the writer is told so."""
    with closing(open_database(owned)) as database, database.write() as connection:
        alembic.command.downgrade(migrate_module._config(connection), "0003")
    with pytest.raises(StoreError, match="owner"):
        open_database(url_of(owned, "vaeseg_writer"))
    open_database(owned).close()
    with closing(open_database(url_of(owned, "vaeseg_writer"))) as database, database.read() as connection:
        assert connection.scalar(text("SELECT count(*) FROM events")) == 0
    question = Question(statement="SELECT * FROM coverage", limit=1, timeout_seconds=10)
    assert ask(url_of(owned, "vaeseg_reader"), question).rows == ()
