from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner, Result
from ledger_factories import Clock, begin_run, failed, scan, segmented, series_row

from vaeseg.cli import main
from vaeseg.db.archives import add_archive
from vaeseg.db.runs import finish_run, start_run
from vaeseg.db.session import Database, open_database, sqlite_url
from vaeseg.db.work import plan_work
from vaeseg.distributed.commit import commit_group
from vaeseg.io.store import Store

KEYS = ["1.2.1", "1.2.2", "1.2.3"]


def _status(store: Store, *arguments: str, columns: int = 120) -> Result:
    environment = {"VAESEG_DB": "", "VAESEG_STORE": "", "COLUMNS": str(columns)}
    return CliRunner(env=environment).invoke(main, ["status", "--store", str(store.root), *arguments])


@pytest.fixture
def now_database(store: Store) -> Iterator[Database]:
    """A SQLite ledger in the store, stamped by the real clock that the command reads."""
    database = open_database(sqlite_url(store.database_path))
    yield database
    database.close()


@pytest.fixture
def run_id(now_database: Database, store: Store) -> str:
    """One series segmented, one failed, one pending."""
    run_id = begin_run(now_database, scan(now_database, [series_row(key) for key in KEYS]))
    one, two, _ = plan_work(now_database, run_id, KEYS).pending
    commit_group(run_id, [(one, segmented(one)), (two, failed(two))], store, now_database)
    return run_id


def test_one_run_as_json(store: Store, run_id: str) -> None:
    """Everything that a script needs, on stdout and nothing else there."""
    result = _status(store, run_id, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    shown = json.loads(result.stdout)
    assert (shown["run_id"], shown["status"], shown["model"], shown["pending"]) == (run_id, "running", "phantom-v1", 1)
    assert shown["outcomes"] == {"segmented": 1, "skipped": 0, "failed": 1, "crashed": 0}
    assert shown["files"] == {"found": 5, "in_series": 3, "refused": 2, "waiting": 0}
    assert shown["refused_by_reason"] == {"not_an_image": 2}
    assert shown["started_at"].endswith("+00:00")


def test_one_run_for_people(store: Store, now_database: Database, run_id: str) -> None:
    """Outcomes and files in words; that it is research software on stderr."""
    finish_run(now_database, run_id, "finished")
    result = _status(store, run_id)
    assert re.search(r"^kind +segment$", result.stdout, re.MULTILINE)
    assert "1 segmented, 0 skipped, 1 failed, 0 crashed, 1 pending" in result.stdout
    assert "5 found, 3 in series, 2 refused, 0 waiting" in result.stdout
    assert "2 not_an_image" in result.stdout
    assert "not for clinical use" in result.stderr


def test_the_list_of_runs(store: Store, run_id: str) -> None:
    """A row each in the table, an object each in JSON."""
    assert re.search(rf"{run_id} +running +1 +0 +1 +0 +1 +0:00:0\d +phantom-v1", _status(store).stdout)
    assert [run["run_id"] for run in json.loads(_status(store, "--json").stdout)] == [run_id]


def test_the_list_fits_a_narrow_terminal(store: Store, run_id: str) -> None:
    """80 characters hold every id and number unbroken."""
    result = _status(store, columns=80)
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert re.search(rf"^{run_id} +running +1 +0 +1 +0 +1 +0:00:0\d *$", result.stdout, re.MULTILINE)


def _begun_elsewhere(database: Database, kind: str) -> str:
    """A run of another archive, of a kind."""
    archive_id = add_archive(database, "ward", "/ward").id
    return start_run(
        database, kind=kind, archive_id=archive_id, model_digest=None, config_json="{}", config_digest="c" * 64
    )


@pytest.mark.parametrize("columns", [80, 120])
def test_the_list_tells_runs_apart(store: Store, now_database: Database, run_id: str, columns: int) -> None:
    """By kind and archive; of a narrow terminal outcomes that no run has give way to them, and those of some do not."""
    assert _status(store, columns=columns).stdout.split()[:3] == ["run", "status", "segmented"]
    other = _begun_elsewhere(now_database, "index")
    shown = _status(store, columns=columns).stdout
    assert max(map(len, shown.splitlines())) <= columns
    outcomes = {"segmented": 1, "skipped": 0, "failed": 1, "crashed": 0, "pending": 1}
    kept = [name for name, count in outcomes.items() if count or columns > 80]
    head, *rows = (line.split()[: 4 + len(kept)] for line in shown.splitlines())
    assert head == ["run", "status", "kind", "archive", *kept]
    assert [other, "running", "index", "ward", *("0" for _ in kept)] in rows
    (archive,) = (run["archive"] for run in json.loads(_status(store, "--json").stdout) if run["run_id"] == run_id)
    assert [run_id, "running", "segment", archive, *(str(outcomes[name]) for name in kept)] in rows


def test_a_run_without_archive_is_told_by_its_kind(store: Store, now_database: Database, run_id: str) -> None:
    """One archive is no column, though `gc` has none."""
    start_run(now_database, kind="gc", archive_id=None, model_digest=None, config_json="{}", config_digest="")
    assert _status(store).stdout.split()[:4] == ["run", "status", "kind", "segmented"]


def test_a_run_whose_driver_died_is_shown_as_lost(store: Store, clock: Clock) -> None:
    """Its last heartbeat is an hour old."""
    clock.moment = datetime.now(UTC) - timedelta(hours=1)
    database = open_database(sqlite_url(store.database_path), now=clock)
    run_id = begin_run(database, scan(database, [series_row("1.2.1")]))
    database.close()
    assert json.loads(_status(store, run_id, "--json").stdout)["status"] == "lost"
    assert " lost " in _status(store).stdout


def test_an_unknown_run_is_a_usage_error(store: Store, run_id: str) -> None:
    """Exit 2, one line, the name and where to look."""
    result = _status(store, "20000101T000000-ffffff")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("vaeseg-batch: no run 20000101T000000-ffffff")


def test_a_store_that_does_not_exist_is_not_made(store: Store) -> None:
    """Exit 2, one line that says how to name one; no directory and no database appear."""
    gone = store.root.parent / "gone"
    result = CliRunner().invoke(main, ["status", "--store", str(gone)])
    assert result.exit_code == 2
    assert "--store" in result.stderr
    assert not gone.exists()
    assert _status(store).exit_code == 2
    assert not store.database_path.exists()


def test_a_store_without_runs(store: Store, now_database: Database) -> None:
    """An empty list, and a word to people."""
    assert json.loads(_status(store, "--json").stdout) == []
    assert "no runs yet" in _status(store).stderr
