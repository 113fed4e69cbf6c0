"""A scan with rules on a local Ray, to its findings and its coverage."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
from sqlalchemy import select

from vaeseg.db.index_series import readable_series
from vaeseg.db.session import Database, open_database, sqlite_url
from vaeseg.db.tables import FindingTable, RunCoverageTable
from vaeseg.distributed import asking, runs, spread
from vaeseg.distributed.report import RunReport
from vaeseg.distributed.rules import Selection
from vaeseg.distributed.submit import Submission, preview, retry, submit
from vaeseg.distributed.verify import verify
from vaeseg.errors import StoreError
from vaeseg.io.store import Store
from vaeseg.records import FailedSeries

pytestmark = pytest.mark.usefixtures("ray_session")

NO_ABDOMEN = {"leave_out": [{"rule": "no_abdomen", "keyword": "BodyPartExamined", "equals": "ABDOMEN"}]}


@pytest.fixture
def ward(submission: Submission, archive: Path, tmp_path: Path) -> Submission:
    """Three series, one of them of the abdomen, which is to be left out; headers are asked by tasks."""
    shutil.copytree(archive / "dicom", tmp_path / "ward")
    for path in sorted((tmp_path / "ward").iterdir())[1].rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.BodyPartExamined = "ABDOMEN"
        dataset.save_as(path)
    (tmp_path / "ward" / "notes.txt").write_text("junk")
    config = replace(submission.config, label_dir=None, rules=NO_ABDOMEN)
    return replace(submission, study_dir=tmp_path / "ward", config=config)


def outcomes(report: RunReport) -> dict[str, int]:
    return {name: count for name, count in report.outcomes.items() if count}


def coverage(database: Database, report: RunReport) -> dict[tuple[str, str], int]:
    """Series, after checking that the files add up to those found."""
    statement = select(RunCoverageTable.__table__).where(RunCoverageTable.run_id == report.run_id)
    with database.read() as connection:
        rows = connection.execute(statement).all()
    assert sum(row.n_files for row in rows) == report.files.found
    return {(row.category, row.reason): row.n_series for row in rows if row.n_series}


def test_what_rules_leave_out_is_accounted_for_and_not_segmented(
    ward: Submission, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Night after night, by preview, run and retry; the third night asks no header."""
    monkeypatch.setattr(spread, "HERE_SECONDS", 0)
    monkeypatch.setattr(spread, "SOON_SECONDS", 0)
    ahead = preview(ward)
    assert (ahead.to_segment, ahead.left_out_by_rule) == (2, {"no_abdomen": 1})
    first = submit(replace(ward, config=replace(ward.config, limit=1)))
    assert outcomes(first) == {"segmented": 1, "left_out_by_rule": 1, "not_planned": 1}
    second = submit(ward)
    assert outcomes(second) == {"segmented": 1, "already_done": 1, "left_out_by_rule": 1}
    assert second.left_out_by_rule == {"no_abdomen": 1}
    monkeypatch.setattr(spread, "HERE_SECONDS", 9)
    monkeypatch.setattr(asking, "ask_header", None)
    third = submit(ward)
    assert (third.status, outcomes(third)) == ("nothing_to_do", {"already_done": 2, "left_out_by_rule": 1})
    store = Store(ward.store_root)
    with closing(open_database(sqlite_url(store.database_path))) as database:
        left_out = {("left_out_by_rule", "no_abdomen"): 1}
        assert coverage(database, first) == left_out | {("segmented", ""): 1, ("pending", ""): 1}
        assert coverage(database, third) == left_out | {("segmented", ""): 2}
        assert retry(store, database, first.run_id).status == "nothing_to_do"
        assert list(verify(store, database)) == []
        with database.read() as connection:
            assert connection.scalars(select(FindingTable.outcome)).all() == ["segmented", "segmented"]
    everything = submit(replace(ward, config=replace(ward.config, rules=None)))
    assert outcomes(everything) == {"segmented": 1, "already_done": 2}
    assert outcomes(submit(ward)) == {"already_done": 3}


def test_an_archive_that_drops_out_while_rules_are_asked_fails_no_series(
    ward: Submission, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends; when the archive is back, the next does all of it."""
    select_series = runs.select_series

    def without_archive(*arguments: Any) -> Selection:
        ward.study_dir.rename(tmp_path / "away")
        return select_series(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "select_series", without_archive)
        with pytest.raises(StoreError, match="is the file system mounted"):
            submit(ward)
    (tmp_path / "away").rename(ward.study_dir)
    assert outcomes(submit(ward)) == {"segmented": 2, "left_out_by_rule": 1}


def test_what_rules_could_not_be_asked_about_fails_before_anything_is_begun(
    ward: Submission, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that dies in its first series leaves none planned that the next would take for allowed."""
    select_series = runs.select_series

    def without_the_last(database: Database, job: Any, *others: Any) -> Selection:
        chosen = select_series(database, job, *others)
        last = max(name.series_key for name in readable_series(database, job.archive_id))
        return replace(chosen, unread={last: ("unreadable_file", "cannot be read (OSError)")})

    segment = runs._segment

    def die(run: Any, committer: Any, portion: Sequence[Any]) -> None:
        if not isinstance(portion[0][1], FailedSeries):
            raise StoreError("the disk is full")
        segment(run, committer, portion)

    monkeypatch.setattr(runs, "select_series", without_the_last)
    monkeypatch.setattr(runs, "_segment", die)
    monkeypatch.setattr(runs, "series_at_once", lambda _: 1)
    with pytest.raises(StoreError, match="the disk is full"):
        submit(ward)
    with (
        closing(open_database(sqlite_url(Store(ward.store_root).database_path))) as database,
        database.read() as reading,
    ):
        assert reading.scalars(select(FindingTable.reason)).all() == ["unreadable_file"]
