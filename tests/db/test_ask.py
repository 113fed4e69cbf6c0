"""Questions by people: what is answered, and what is refused by the database itself."""

from __future__ import annotations

import time

import pytest
from ledger_factories import ROOT, begin_run, scan, segmented, series_row
from sqlalchemy import text

from vaeseg.db.answers import Answer, Question
from vaeseg.db.ask import ask
from vaeseg.db.session import Database
from vaeseg.db.views import VIEWS
from vaeseg.db.work import plan_work
from vaeseg.distributed.commit import commit_group
from vaeseg.errors import EXIT_ERROR, StoreError, UsageError, VaesegError
from vaeseg.io.store import Store

ENDLESS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT {} FROM n"


CHANGES = (
    "DELETE FROM findings",
    "UPDATE findings SET tumour_volume_ml = 0",
    "INSERT INTO changed_groups VALUES (1, 'x')",
    "DROP TABLE lesions",
    "CREATE TABLE mine (x int)",
    "SELECT 1; DROP TABLE lesions",
    "SELECT 1) AS x; DROP TABLE lesions; --",
    "COMMIT",
    "VACUUM",
    "WITH gone AS (DELETE FROM findings RETURNING id) SELECT * FROM gone",
    "PRAGMA query_only = OFF",
    "ATTACH 'other.db' AS other",
    "SELECT set_config('transaction_read_only', 'off', false)",
    "SELECT load_extension('x')",
    "SELEC id FROM findings",
    "SELECT colour FROM findings",
    "SELECT * FROM nowhere",
    "SELECT 'a\0b'",
    "SELECT '\udcff'",
    " ; ",
)

OF_PATHS = (
    "SELECT a FROM archives AS a",
    "SELECT a.id, a FROM archives AS a",
    "SELECT path FROM instances",
    "SELECT count(*) FROM instances",
    "SELECT 1 FROM findings WHERE EXISTS (SELECT 1 FROM instances WHERE path LIKE '%DOE%')",
    "SELECT p FROM (SELECT path AS p FROM instances) AS i",
    "WITH i AS (SELECT * FROM instances) SELECT 1 FROM i",
    "SELECT root FROM archives",
    "SELECT * FROM archives",
    "SELECT label_root FROM archives AS a",
    "SELECT config FROM runs",
    "SELECT options FROM schedules",
)


def asked(url: str, statement: str, *, limit: int = 10, timeout_seconds: float = 20.0) -> Answer:
    return ask(url, Question(statement=statement, limit=limit, timeout_seconds=timeout_seconds))


@pytest.fixture
def filled(database: Database, store: Store, database_url: str) -> str:
    """URL of a database with three findings."""
    keys = ["1.2.1", "1.2.2", "1.2.3"]
    run_id = begin_run(database, scan(database, [series_row(key) for key in keys], junk=1))
    items = plan_work(database, run_id, keys).pending
    outcomes = [(item, segmented(item, volume_ml=float(n))) for n, item in enumerate(items)]
    commit_group(run_id, outcomes, store, database)
    return database_url


def test_an_answer_has_names_and_rows(filled: str) -> None:
    """In the order asked for; the second of two columns with one name gets a name of its own."""
    answer = asked(filled, "SELECT tumour_volume_ml, model, model FROM latest_findings ORDER BY 1 DESC;")
    assert answer.columns == ("tumour_volume_ml", "model", "model_2")
    assert answer.rows == tuple((volume, "phantom-v1", "phantom-v1") for volume in (2.0, 1.0, 0.0))
    assert not answer.is_cut


def test_rows_are_cut_off_at_the_limit(filled: str) -> None:
    """It is said, but not where there are exactly as many; an endless answer is cut off like any other."""
    assert asked(filled, "SELECT id FROM findings", limit=3).is_cut is False
    cut = asked(filled, "SELECT id FROM findings", limit=2)
    assert (len(cut.rows), cut.is_cut) == (2, True)
    endless = asked(filled, ENDLESS.format("i"), limit=5)
    assert (endless.rows, endless.is_cut) == (((1,), (2,), (3,), (4,), (5,)), True)


def test_what_is_counted_comes_from_subqueries_too(filled: str) -> None:
    """Rows are counted without reading a column, which SQLite asks about in another way."""
    assert asked(filled, "WITH f AS (SELECT id FROM findings) SELECT count(*) FROM f").rows == ((3,),)
    assert asked(filled, "SELECT count(*) FROM (SELECT 1 AS one) AS s, lesions").rows == ((4,),)


def test_time_is_limited(filled: str) -> None:
    """By the database: the statement ends within a second or so, with exit code 1."""
    started = time.monotonic()
    with pytest.raises(VaesegError, match=r"no answer within 0\.5 s") as caught:
        asked(filled, ENDLESS.format("count(*)"), timeout_seconds=0.5)
    assert caught.value.exit_code == EXIT_ERROR
    assert time.monotonic() - started < 10


def test_nothing_but_one_select_is_answered(filled: str, database: Database) -> None:
    """A usage error of one line; nothing has changed."""
    for statement in CHANGES:
        assert "\n" not in refusal(filled, statement)
    with database.read() as connection:
        assert connection.scalar(text("SELECT count(*) FROM findings WHERE tumour_volume_ml > 0")) == 2
        assert connection.scalar(text("SELECT count(*) FROM lesions")) == 4


def test_paths_are_not_shown(filled: str) -> None:
    """Not directly, not in whole rows, and not by asking whether there is one."""
    for statement in OF_PATHS:
        assert ROOT not in refusal(filled, statement)


def refusal(url: str, statement: str) -> str:
    """The message; the test fails, and names the statement, if there was an answer."""
    try:
        answer = asked(url, statement)
    except UsageError as error:
        return str(error)
    raise AssertionError(f"{statement} was answered with {answer.rows}")


def test_values_that_only_postgresql_has(database: Database, database_url: str) -> None:
    """Moments are UTC whatever zone the server speaks; one that Python cannot hold is a usage error."""
    if database.engine.dialect.name == "postgresql":
        moment = asked(database_url, "SELECT TIMESTAMPTZ '2026-11-22 02:30:00+01'").rows[0][0]
        assert moment.isoformat() == "2026-11-22T01:30:00+00:00"
        assert "infinity" in refusal(database_url, "SELECT TIMESTAMPTZ 'infinity'")
        assert "division by zero" in refusal(database_url, "SELECT 1 / 0")


def test_every_view_is_answered(filled: str) -> None:
    """Although some are made of tables that hold paths."""
    for view in VIEWS.tables:
        assert asked(filled, f"SELECT * FROM {view}").columns == tuple(VIEWS.tables[view].columns.keys())


def test_a_value_cannot_fill_the_memory(store: Store, database: Database, database_url: str) -> None:
    """SQLite makes a blob of any size otherwise."""
    if database.engine.dialect.name == "sqlite":
        with pytest.raises(UsageError, match="too big"):
            asked(database_url, "SELECT length(zeroblob(900000000))")


def test_what_cannot_be_asked(store: Store) -> None:
    """No server, no file, a file that is no database: errors of the store."""
    with pytest.raises(StoreError):
        asked("postgresql://nobody@127.0.0.1:1/x", "SELECT 1")
    with pytest.raises(StoreError, match="no database at"):
        asked(f"sqlite:///{store.database_path}", "SELECT 1")
    store.database_path.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match="not a database"):
        asked(f"sqlite:///{store.database_path}", "SELECT 1")
