"""`erase` and `subject-key` from the command line, and what `findings` leaves behind for an auditor."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from ledger_factories import begin_run, failed, files_of, scan, series_row

from vaeseg.cli import main
from vaeseg.db.runs import finish_run
from vaeseg.db.session import open_database, sqlite_url
from vaeseg.db.work import plan_work
from vaeseg.distributed.commit import commit_group
from vaeseg.io.dicom import SubjectKeyer
from vaeseg.io.secret import KEY_VARIABLE, subject_secret
from vaeseg.io.store import Store

PATIENT = "4711-Doe"


@pytest.fixture(autouse=True)
def subject(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The key of a patient with one series, which failed; two of its three files are still there."""
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    key = SubjectKeyer(subject_secret(store.root)).key(PATIENT, "ward")
    with closing(open_database(sqlite_url(store.database_path))) as database:
        row = series_row("1.2.3", subject_key=key)
        run_id = begin_run(database, scan(database, [row], root=str(tmp_path / "archive")))
        (item,) = plan_work(database, run_id, ["1.2.3"]).pending
        commit_group(run_id, [(item, failed(item))], store, database)
        finish_run(database, run_id, "finished")
    for file in files_of(row)[1:]:
        (tmp_path / "archive" / file.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "archive" / file.path).touch()
    assert key is not None
    return key


def vaeseg(store: Store, *arguments: str, text: str = "") -> Result:
    return CliRunner(env={"VAESEG_DB": "", "VAESEG_STORE": str(store.root)}).invoke(main, list(arguments), input=text)


def events(store: Store) -> list[tuple[str, int | None, str]]:
    with closing(sqlite3.connect(store.database_path)) as connection:
        return connection.execute("SELECT kind, n_rows, detail FROM events ORDER BY id").fetchall()


def test_without_yes_it_says_what_would_go(store: Store, subject: str) -> None:
    """In numbers, with exit code 2, and nothing goes."""
    before = events(store)
    shown = vaeseg(store, "erase", subject)
    assert shown.exit_code == 2
    assert shown.stdout.splitlines() == [
        "rows    series 1, instances 3, work_items 1, findings 1, lesions 0, exclusions 0",
        "parquet 1 rows in 1 files",
        "masks   0 files",
    ]
    assert "nothing was erased: add --yes" in shown.stderr
    assert vaeseg(store, "erase", subject, "--json").stdout == shown_as_json(False)
    assert events(store) == before


def shown_as_json(was_erased: bool) -> str:
    rows = {"series": 1, "instances": 3, "work_items": 1, "findings": 1, "lesions": 0, "exclusions": 0}
    counts = {"parquet_rows": 1, "parquet_files": 1, "mask_files": 0, "files_in_archive": 2, "files_unseen": 0}
    return json.dumps({"erased": was_erased, "rows": rows, **counts}) + "\n"


def test_with_yes_it_goes_and_the_files_that_are_left_are_named(store: Store, subject: str) -> None:
    """Once; the second time there is no such subject. The key is in no output."""
    done = vaeseg(store, "erase", subject, "--yes", "--json")
    assert (done.exit_code, done.stdout) == (0, shown_as_json(True))
    assert "2 files of this subject are still in the archive: the next scan reads them again" in done.stderr
    assert subject not in done.output
    again = vaeseg(store, "erase", subject, "--yes")
    assert (again.exit_code, "no such subject in this store" in again.stderr) == (1, True)
    assert vaeseg(store, "verify").exit_code == 0


def test_files_that_were_deleted_since_the_last_scan_are_not_there(store: Store, subject: str, tmp_path: Path) -> None:
    """Other files are; where there are none at all, the share may not be mounted."""
    archive = tmp_path / "archive"
    shutil.rmtree(archive / "DOE^JANE")
    unseen = vaeseg(store, "erase", subject)
    assert "3 files of this subject were in the archive when it was last scanned" in unseen.stderr
    (archive / "other.dcm").touch()
    deleted = vaeseg(store, "erase", subject)
    assert "files of this subject" not in deleted.stderr


def test_findings_of_a_series_that_is_somebody_else_s_by_now(store: Store, subject: str, tmp_path: Path) -> None:
    """Made under the key that was corrected since: that they go, and come again, is said."""
    with closing(open_database(sqlite_url(store.database_path))) as database:
        scan(database, [series_row("1.2.3", subject_key="0" * 32)], root=str(tmp_path / "archive"))
    shown = vaeseg(store, "erase", subject)
    assert "1 of the findings are of series that are not this subject's by now" in shown.stderr
    assert vaeseg(store, "erase", subject, "--yes").exit_code == 0
    assert vaeseg(store, "verify").exit_code == 0
    assert vaeseg(store, "erase", subject).exit_code == 1


def test_rows_that_an_erasure_left_are_named(store: Store) -> None:
    """Whoever's they were: any erasure removes them."""
    with closing(sqlite3.connect(store.database_path)) as connection, connection:
        connection.execute("DELETE FROM findings")
    shown = vaeseg(store, "erase", "0" * 32)
    assert "1 of the rows of Parquet are what an earlier erasure left" in shown.stderr


def test_the_key_of_a_patient_is_read_from_standard_input(store: Store, subject: str) -> None:
    """Id and issuer, a line each; that it was asked for is recorded, and whose it is not."""
    found = vaeseg(store, "subject-key", text=f"{PATIENT}\nward\n")
    assert (found.exit_code, found.stdout) == (0, subject + "\n")
    assert json.loads(vaeseg(store, "subject-key", "--json", text=f"{PATIENT}\nward").stdout) == {
        "subject_key": subject
    }
    assert vaeseg(store, "subject-key", text=PATIENT).stdout != subject + "\n"
    assert events(store)[-1] == ("subject_key_shown", None, "{}")


@pytest.mark.parametrize(
    ("text", "message"), [("", "no patient id"), (" \n", "no patient id"), ("1\n2\n3", "two lines")]
)
def test_no_patient_id_is_a_usage_error(store: Store, text: str, message: str) -> None:
    """Nor more than an id and its issuer; what was typed is not repeated."""
    refused = vaeseg(store, "subject-key", text=text)
    assert (refused.exit_code, message in refused.stderr, refused.stdout) == (2, True, "")


def test_a_store_that_lost_its_key_gets_no_new_one(store: Store) -> None:
    """A new one would give pseudonyms that nothing is stored under."""
    (store.root / "subject.key").unlink()
    refused = vaeseg(store, "subject-key", text=PATIENT)
    assert (refused.exit_code, "cannot read the key file" in refused.stderr) == (1, True)
    assert not (store.root / "subject.key").exists()


def test_findings_are_recorded_without_naming_the_subject(store: Store, subject: str) -> None:
    """Format, names of the filters, number of rows."""
    vaeseg(store, "findings", "--subject", subject, "--since", "2026-01-01", "--format", "csv")
    assert events(store)[-1] == ("findings_shown", 1, '{"format": "csv", "filters": ["since", "subject_key"]}')


def test_gc_is_recorded(store: Store) -> None:
    """With the number of files, as a run; a dry run is not."""
    before = events(store)
    vaeseg(store, "gc", "--dry-run")
    assert events(store) == before
    vaeseg(store, "gc")
    assert [event[0] for event in events(store)[len(before) :]] == ["run_started", "garbage_removed", "run_finished"]
    assert events(store)[-2][1:] == (None, '{"n_files": 0}')
