"""Scans night after night on a local Ray: what is new is done, and nothing twice."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pydicom
import pytest

from vaeseg.db.session import open_database, sqlite_url
from vaeseg.db.summaries import run_summary
from vaeseg.distributed import indexing, runs, spread
from vaeseg.distributed.stage import StageConfig
from vaeseg.distributed.submit import Submission, index_only, submit
from vaeseg.distributed.verify import verify
from vaeseg.errors import StoreError
from vaeseg.io.store import create_store

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def nightly(submission: Submission, archive: Path, tmp_path: Path) -> Submission:
    """A copy of the archive that may be changed; files wait for half an hour."""
    shutil.copytree(archive / "dicom", tmp_path / "ward")
    config = replace(submission.config, label_dir=None, stable_seconds=1800.0)
    return replace(submission, study_dir=tmp_path / "ward", config=config)


def height(path: Path) -> float:
    """Of a slice, mm."""
    return float(pydicom.dcmread(path, stop_before_pixels=True).ImagePositionPatient[2])


def age(directory: Path) -> None:
    """As if nothing had changed for an hour."""
    for path in directory.rglob("*.dcm"):
        os.utime(path, (time.time() - 3600,) * 2)


@pytest.mark.parametrize("tree_tasks", [1, 1024])
def test_listing_and_reading_as_tasks_make_the_same_index(
    nightly: Submission, monkeypatch: pytest.MonkeyPatch, tree_tasks: int
) -> None:
    """On Ray, however few files there are, several directories to a task or one; the second time no header is read."""
    monkeypatch.setattr(indexing, "TREES", 2)
    monkeypatch.setattr(indexing, "TREE_TASKS", tree_tasks)
    monkeypatch.setattr(indexing, "LISTED_HERE_SECONDS", 0)
    monkeypatch.setattr(spread, "HERE_SECONDS", 0)
    monkeypatch.setattr(spread, "SOON_SECONDS", 0)
    age(nightly.study_dir)
    n_files = sum(1 for _ in nightly.study_dir.rglob("*.dcm"))
    first = index_only(nightly)
    assert (first["n_listed"], first["n_read"], first["n_judged"]) == (n_files, n_files, 3)
    again = index_only(nightly)
    assert (again["n_listed"], again["n_read"], again["n_judged"]) == (n_files, 0, 0)


@pytest.mark.parametrize("place", [pytest.param(0, marks=pytest.mark.slow), 5], ids=["at the end", "in the middle"])
def test_a_study_still_arriving_waits_and_is_done_when_it_is_complete(nightly: Submission, place: int) -> None:
    """Whether what is there makes a volume without the late slice or not; its neighbours are not held up.

    The next night does it alone, and the night after that nothing.
    """
    age(nightly.study_dir)
    series = sorted({path.parent for path in nightly.study_dir.rglob("*.dcm")})[0]
    late = sorted(series.glob("*.dcm"), key=height)[place]
    os.utime(late)
    first = submit(nightly)
    n_waiting = len(list(series.glob("*.dcm"))) if place else 1
    assert (first.outcomes["segmented"], first.outcomes["waiting"], first.outcomes["refused"]) == (2, 1, 0)
    assert (first.files.refused, first.files.waiting, first.complete) == (0, n_waiting, True)
    age(nightly.study_dir)
    second = submit(nightly)
    assert (second.outcomes["segmented"], second.outcomes["already_done"], second.files.waiting) == (1, 2, 0)
    third = submit(nightly)
    assert (third.status, third.outcomes["already_done"], third.index["n_read"]) == ("nothing_to_do", 3, 0)


def test_a_series_that_vanished_keeps_its_finding(nightly: Submission) -> None:
    """It is not planned, not failed, and not found any more."""
    age(nightly.study_dir)
    submit(nightly)
    gone = sorted({path.parent for path in nightly.study_dir.rglob("*.dcm")})[0]
    shutil.rmtree(gone)
    report = submit(nightly)
    assert (report.status, report.outcomes["already_done"], report.n_series) == ("nothing_to_do", 2, 2)
    assert len(list(nightly.store_root.glob("masks/*/*/*/mask.nii.gz"))) == 3


def test_an_archive_that_drops_out_ends_the_run_and_fails_no_series(
    nightly: Submission, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once work is planned; when it is back, the next night does all of it unasked."""
    age(nightly.study_dir)
    with monkeypatch.context() as patch:
        patch.setattr(runs, "start_local_ray", lambda: nightly.study_dir.rename(tmp_path / "away"))
        with pytest.raises(StoreError, match="is the file system mounted"):
            submit(nightly)
    (tmp_path / "away").rename(nightly.study_dir)
    report = submit(nightly)
    assert (report.outcomes["segmented"], report.outcomes["already_done"], report.complete) == (3, 0, True)


def test_a_series_that_was_away_for_a_moment_is_done_the_next_night(
    nightly: Submission, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails, the others do not, and nobody has to ask for it."""
    age(nightly.study_dir)
    series = sorted({path.parent for path in nightly.study_dir.rglob("*.dcm")})[0]
    with monkeypatch.context() as patch:
        patch.setattr(runs, "start_local_ray", lambda: series.rename(tmp_path / "away"))
        first = submit(nightly)
    assert (first.outcomes["segmented"], first.outcomes["failed"]) == (2, 1)
    (tmp_path / "away").rename(series)
    second = submit(nightly)
    assert (second.outcomes["segmented"], second.outcomes["already_done"], second.outcomes["left_out"]) == (1, 2, 0)


def test_a_run_whose_time_is_over_begins_nothing(submission: Submission) -> None:
    """It ends as finished, and not as complete: no series is failed, crashed or lost."""
    over = replace(submission.config, plan_until=(datetime.now(UTC) - timedelta(seconds=1)).isoformat())
    report = submit(replace(submission, config=over))
    assert (report.status, report.outcomes["pending"], report.n_series, report.complete) == ("finished", 3, 3, False)


def test_what_is_in_work_at_the_end_of_the_time_is_finished(
    submission: Submission, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The series whose turn came too late pass through the pipeline untouched, and are the next run's."""
    real = runs._stage_config

    def over_after_the_first(run: runs._Run, digest: str) -> StageConfig:
        begun.append(digest)
        at = datetime.now(UTC) + timedelta(hours=1 if len(begun) == 1 else -1)
        return replace(real(run, digest), plan_until=at)

    begun: list[str] = []
    monkeypatch.setattr(runs, "series_at_once", lambda _: 1)
    monkeypatch.setattr(runs, "_stage_config", over_after_the_first)
    first = submit(submission)
    assert (first.outcomes["segmented"], first.outcomes["pending"], first.outcomes["crashed"]) == (1, 2, 0)
    monkeypatch.undo()
    second = submit(submission)
    assert (second.outcomes["segmented"], second.outcomes["already_done"]) == (2, 1)
    store = create_store(submission.store_root)
    with closing(open_database(sqlite_url(store.database_path))) as database:
        assert run_summary(database, first.run_id).outcomes["segmented"] == 1
        assert list(verify(store, database)) == []
