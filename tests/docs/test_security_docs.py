"""docs/security.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from ledger_factories import begin_run, scan, series_row
from sqlalchemy import text

from vaeseg.db.events import account, record_shown
from vaeseg.db.runs import EndStatus
from vaeseg.db.session import Database
from vaeseg.distributed.erase import erase_subject
from vaeseg.io.store import Store

PROJECT = Path(__file__).parents[2]
SUBJECT = "5b1e" * 8
DOCUMENT = (PROJECT / "docs/security.md").read_text(encoding="utf-8")


def test_every_kind_of_event_is_documented() -> None:
    """Exactly those that the code records."""
    section = DOCUMENT.split("\n## Events")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    documented = {kind for row in rows for kind in re.findall(r"`(\w+)`", row)}
    source = "".join(path.read_text(encoding="utf-8") for path in (PROJECT / "vaeseg").rglob("*.py"))
    recorded = set(re.findall(r"(?:add_event|record_shown)\(\s*(?:connection, )?database, \"(\w+)\"", source))
    assert documented - {"n_rows"} == recorded | {f"run_{status}" for status in get_args(EndStatus)}


def test_the_questions_of_an_auditor_are_answered(database: Database, store: Store) -> None:
    """Every query of the document runs, on either database."""
    begun = begin_run(database, scan(database, [series_row("1.2.3", subject_key=SUBJECT)]))
    with database.write() as connection:
        connection.execute(text(f"UPDATE runs SET status = 'finished' WHERE id = '{begun}'"))
    record_shown(database, "findings_shown", 3, {})
    record_shown(database, "findings_shown", 4, {})
    erase_subject(store, database, SUBJECT)
    shown, of_run, erasures = re.findall(r"^```sql\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    with database.read() as connection:
        ((_, actor, n_times, n_findings),) = connection.execute(text(shown)).all()
        of_run = of_run.replace("20261122T013000-1a2b3c", begun)
        assert [row.kind for row in connection.execute(text(of_run))] == ["run_started"]
        ((_, status, who, n_rows),) = connection.execute(text(erasures)).all()
    assert (actor, n_times, n_findings) == (account(), 2, 7)
    assert (status, who, n_rows) == ("finished", account(), 4)


def test_every_test_and_document_that_it_names_is_there() -> None:
    """Paths of tests, and links."""
    for path in re.findall(r"`(tests/[\w/.]+)`", DOCUMENT):
        assert (PROJECT / path).is_file(), path
    for link in re.findall(r"\]\(([^)#]+)\)", DOCUMENT):
        assert (PROJECT / "docs" / link).is_file(), link
