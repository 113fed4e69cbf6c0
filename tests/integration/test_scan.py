"""Scans night after night on a local Ray: what is new is done, and nothing twice."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from vaeseg.distributed import indexing
from vaeseg.distributed.submit import Submission, index_only, submit

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


def test_listing_and_reading_as_tasks_make_the_same_index(nightly: Submission, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Ray, however few files there are; the second time no header is read."""
    monkeypatch.setattr(indexing, "TREES", 2)
    monkeypatch.setattr(indexing, "LISTED_HERE_SECONDS", 0)
    monkeypatch.setattr(indexing, "FILES_READ_HERE", 0)
    age(nightly.study_dir)
    n_files = sum(1 for _ in nightly.study_dir.rglob("*.dcm"))
    first = index_only(nightly)
    assert (first["n_listed"], first["n_read"], first["n_judged"]) == (n_files, n_files, 3)
    again = index_only(nightly)
    assert (again["n_listed"], again["n_read"], again["n_judged"]) == (n_files, 0, 0)


@pytest.mark.parametrize("place", [0, 5], ids=["at the end", "in the middle"])
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
