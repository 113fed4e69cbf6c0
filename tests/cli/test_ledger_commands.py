"""`verify`, `gc`, `cancel`, `resume` and `retry` from the command line, as far as nothing is segmented."""

from __future__ import annotations

import json
from contextlib import closing

import pytest
from called import InThisProcess
from click.testing import CliRunner, Result
from ledger_factories import Clock, begin_run, failed, scan, series_row, skipped

from vaeseg.cli import main
from vaeseg.db.runs import finish_run
from vaeseg.db.session import open_database, sqlite_url
from vaeseg.db.work import plan_work
from vaeseg.distributed.commit import commit_group
from vaeseg.io.secret import subject_secret
from vaeseg.io.store import Store

KEYS = ["1.2.3", "1.2.4"]


def vaeseg(store: Store, *arguments: str) -> Result:
    return CliRunner(env={"VAESEG_DB": "", "VAESEG_STORE": str(store.root)}).invoke(main, list(arguments))


@pytest.fixture(autouse=True)
def runs(store: Store, clock: Clock) -> dict[str, str]:
    """One that finished with a skipped and a failed series, and one whose driver died long ago."""
    with closing(open_database(sqlite_url(store.database_path), now=clock)) as database:
        archive_id = scan(database, [series_row(key) for key in KEYS])
        finished = begin_run(database, archive_id)
        one, two = plan_work(database, finished, KEYS).pending
        commit_group(finished, [(one, skipped(one)), (two, failed(two))], store, database)
        finish_run(database, finished, "finished")
        return {"finished": finished, "dead": begin_run(database, archive_id)}


def test_verify_says_that_they_agree_or_where_not(store: Store, runs: dict[str, str]) -> None:
    """Exit code 0 and a line, or 1 and each disagreement; one object with --json."""
    agreed = vaeseg(store, "verify")
    assert (agreed.exit_code, agreed.stdout) == (0, "SQL, Parquet and masks agree\n")
    assert json.loads(vaeseg(store, "verify", "--json").stdout) == {"agree": True, "disagreements": []}
    (part,) = store.parquet.glob("findings/*/*.parquet")
    part.unlink()
    broken = vaeseg(store, "verify", runs["finished"])
    assert (broken.exit_code, broken.stdout.startswith("part_missing: parquet/findings/")) == (1, True)
    (named,) = json.loads(vaeseg(store, "verify", "--json").stdout)["disagreements"]
    assert named["kind"] == "part_missing"
    assert vaeseg(store, "verify", runs["dead"]).exit_code == 0
    assert vaeseg(store, "verify", "no-such-run").exit_code == 2


def test_gc_names_what_it_removes(store: Store) -> None:
    """A dry run leaves it."""
    lost = store.masks / "1" / "2" / "m" / "mask.nii.gz"
    lost.parent.mkdir(parents=True)
    lost.touch()
    assert vaeseg(store, "gc", "--dry-run").stdout == "masks/1/2/m/mask.nii.gz\n1 files would be removed\n"
    assert lost.exists()
    assert vaeseg(store, "gc").stdout == "masks/1/2/m/mask.nii.gz\n1 files removed\n"
    assert not lost.exists()


def test_cancel_closes_a_dead_run_and_refuses_an_ended_one(store: Store, runs: dict[str, str]) -> None:
    """It says how to go on; the second time there is nothing to cancel."""
    closed = vaeseg(store, "cancel", runs["dead"])
    assert (closed.exit_code, "had no driver any more" in closed.stdout) == (0, True)
    assert f"vaeseg-batch resume {runs['dead']}" in closed.stdout
    again = vaeseg(store, "cancel", runs["dead"])
    assert (again.exit_code, "has ended already: interrupted" in again.stderr) == (2, True)
    assert vaeseg(store, "cancel", "no-such-run").exit_code == 2


def test_resume_refuses_what_has_finished(store: Store, runs: dict[str, str], in_this_process: InThisProcess) -> None:
    """And a run that is not there."""
    where = ("--store", store.root)
    done = in_this_process("resume", runs["finished"], *where)
    assert (done.exit_code, "has finished" in done.stderr) == (2, True)
    assert in_this_process("resume", "no-such-run", *where).exit_code == 2


def test_retry_takes_outcomes_that_can_be_retried(
    store: Store, runs: dict[str, str], in_this_process: InThisProcess
) -> None:
    """Others are a usage error that names them; these get as far as the archive, which is not there."""
    subject_secret(store.root)
    where = ("--store", store.root)
    wrong = in_this_process("retry", runs["finished"], "--outcome", "failed,skipped", *where)
    assert (wrong.exit_code, "skipped is not one of failed, crashed" in wrong.stderr) == (2, True)
    for outcomes in ("failed", "crashed", "failed, crashed"):
        gone = in_this_process("retry", runs["finished"], "--outcome", outcomes, *where)
        assert (gone.exit_code, "cannot list the study directory" in gone.stderr) == (1, True), gone.stderr
    assert in_this_process("retry", "no-such-run", *where).exit_code == 2
