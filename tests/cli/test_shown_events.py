"""What somebody was shown is an event before it is printed; what cannot be recorded is not shown."""

from __future__ import annotations

from contextlib import closing
from datetime import date
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from ledger_factories import SUBJECT, begin_run, scan, segmented, series_row
from sqlalchemy import select

from vaeseg.cli import main
from vaeseg.db.events import account
from vaeseg.db.session import open_database, sqlite_url
from vaeseg.db.tables import EventTable
from vaeseg.db.work import plan_work
from vaeseg.distributed.commit import commit_group
from vaeseg.errors import StoreError
from vaeseg.io.store import Store

QUERY = f"SELECT tumour_volume_ml FROM tumour_volume_trend WHERE subject_key = '{SUBJECT}'"
COMMANDS = {
    "findings_shown": ("findings", "--subject", SUBJECT),
    "trend_shown": ("trend", SUBJECT),
    "query_shown": ("query", QUERY),
}


@pytest.fixture(autouse=True)
def finding(store: Store) -> None:
    with closing(open_database(sqlite_url(store.database_path))) as database:
        run_id = begin_run(database, scan(database, [series_row("1.2.1", study_date=date(2026, 1, 1))]))
        (item,) = plan_work(database, run_id, ["1.2.1"]).pending
        commit_group(run_id, [(item, segmented(item))], store, database)


def called(store: Store, *arguments: str) -> Result:
    return CliRunner(env={"VAESEG_DB": "", "VAESEG_STORE": str(store.root)}).invoke(main, arguments)


@pytest.mark.parametrize("kind", COMMANDS)
def test_what_is_shown_is_recorded_without_the_subject(store: Store, kind: str) -> None:
    """Who, and how many rows; the key that was asked for is nowhere."""
    assert called(store, *COMMANDS[kind]).exit_code == 0
    with closing(open_database(sqlite_url(store.database_path))) as database, database.read() as connection:
        events = connection.execute(select(EventTable.__table__)).all()
    (event,) = [event for event in events if event.kind == kind]
    assert (event.actor, event.n_rows) == (account(), 1)
    assert SUBJECT not in str(events)


@pytest.fixture
def unrecordable(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr("vaeseg.db.events.record_shown", refuse)


@pytest.mark.usefixtures("unrecordable")
@pytest.mark.parametrize("kind", COMMANDS)
def test_what_cannot_be_recorded_is_not_shown(store: Store, kind: str) -> None:
    """A database that takes no more is an error, and not an answer without a trace."""
    result = called(store, *COMMANDS[kind])
    assert (result.exit_code, result.stdout) == (1, "")


@pytest.mark.usefixtures("unrecordable")
def test_a_file_is_not_written_either(store: Store, tmp_path: Path) -> None:
    """--out is an export."""
    assert called(store, "query", QUERY, "--format", "csv", "--out", str(tmp_path / "x.csv")).exit_code == 1
    assert not (tmp_path / "x.csv").exists()
