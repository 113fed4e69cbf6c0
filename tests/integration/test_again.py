"""Runs that did not finish are gone on with, what failed is done again, and two runs never share an archive."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from archives import compressed_slice

from vaeseg.db.runs import cancel_run
from vaeseg.db.session import Database, open_database, sqlite_url
from vaeseg.db.summaries import Progress, recent_runs, run_summary
from vaeseg.distributed import lifecycle
from vaeseg.distributed.lifecycle import RunInterruptedError
from vaeseg.distributed.submit import Submission, resume, retry, submit
from vaeseg.distributed.verify import verify
from vaeseg.errors import ArchiveBusyError, UsageError
from vaeseg.io.store import Store, create_store

pytestmark = pytest.mark.usefixtures("ray_session")


def opened(submission: Submission) -> tuple[Store, Database]:
    store = create_store(submission.store_root)
    return store, open_database(sqlite_url(store.database_path))


def test_a_cancelled_run_stops_and_is_resumed(submission: Submission, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with a line that says how to go on; resumed under its id, everything is done once and agrees."""
    monkeypatch.setattr(lifecycle, "HEARTBEAT_SECONDS", 0.05)
    submission = replace(submission, config=replace(submission.config, commit_every=1))
    store, database = opened(submission)
    with closing(database):
        cancelled = []

        def cancel(progress: Progress) -> None:
            if progress.series_done == 1:
                (run,) = recent_runs(database)
                cancelled.append(run.run_id)
                assert cancel_run(database, run.run_id)
                with pytest.raises(ArchiveBusyError, match=run.run_id):
                    submit(submission)

        with pytest.raises(RunInterruptedError, match=r"cancelled; .* 'vaeseg-batch resume"):
            submit(submission, cancel)
        (run_id,) = cancelled
        stopped = run_summary(database, run_id)
        assert (stopped.status, stopped.pending > 0) == ("interrupted", True)
        report = resume(store, database, run_id)
        assert (report.run_id, report.complete) == (run_id, True)
        assert run_summary(database, run_id).outcomes["segmented"] == 3
        assert list(verify(store, database)) == []
        with pytest.raises(UsageError, match="has finished"):
            resume(store, database, run_id)


def test_what_failed_is_done_again_and_nothing_else(submission: Submission, archive: Path, tmp_path: Path) -> None:
    """A series that could not be decoded, on a share that has recovered, is segmented by a retry of its run."""
    study = tmp_path / "study"
    broken = compressed_slice(archive, study)
    (study / "notes.txt").write_text("a file that is refused is no failure of a retry")
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-2000] + b"\0" * 2000)
    first = submit(replace(submission, study_dir=study))
    assert (first.outcomes["segmented"], first.outcomes["failed"]) == (2, 1)
    broken.write_bytes(whole)
    store, database = opened(submission)
    with closing(database):
        nothing = retry(store, database, first.run_id, ("crashed",))
        assert nothing.status == "nothing_to_do"
        again = retry(store, database, first.run_id)
        assert (again.outcomes["segmented"], again.outcomes["failed"], again.complete) == (1, 0, True)
        assert list(verify(store, database)) == []
