"""A night on an object store: archive, labels and results at URLs, the database elsewhere."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from called import InThisProcess
from object_store import Server, copy_tree, make_bucket, s3_server
from sqlalchemy import select

from vaeseg.config import PreprocessingConfig
from vaeseg.db.session import Database, open_database, sqlite_url
from vaeseg.db.summaries import Progress, run_summary
from vaeseg.db.tables import FindingTable
from vaeseg.distributed.erase import erase_subject
from vaeseg.distributed.prepare import ArchiveSource, PreparationReport, PreparationRequest, prepare
from vaeseg.distributed.submit import Submission, preview, submit
from vaeseg.distributed.verify import collect_garbage, verify
from vaeseg.io.dataset_manifest import Recipe
from vaeseg.io.parquet import read_masks
from vaeseg.io.store import Store
from vaeseg.paths import AnyPath, matches
from vaeseg.remote import RemotePath

pytestmark = pytest.mark.usefixtures("ray_session")

MEASURED = [
    getattr(FindingTable, name)
    for name in (
        "series_instance_uid", "subject_key", "outcome", "n_slices", "tumour_volume_ml", "lesion_count",
        "largest_lesion_ml", "iou", "dice", "mask_uri", "mask_sha256",
    )
]  # fmt: skip


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the pseudonyms, which does not go into an object store."""
    monkeypatch.setenv("VAESEG_SUBJECT_KEY", "of these tests alone")


def moved(submission: Submission, archive: Path, bucket: RemotePath, database_path: Path) -> Submission:
    """The same work with archive, labels and store in a bucket."""
    copy_tree(archive, bucket / "archive")
    return replace(
        submission,
        study_dir=bucket / "archive" / "dicom",
        store_root=bucket / "store",
        database_url=sqlite_url(database_path),
        config=replace(submission.config, label_dir=str(bucket / "archive" / "labels"), commit_every=1),
    )


def measured(database: Database) -> list[tuple[Any, ...]]:
    """What was found, and nothing of when and where."""
    with database.read() as connection:
        return [tuple(row) for row in connection.execute(select(*MEASURED).order_by(FindingTable.series_instance_uid))]


def voxels(store: Store) -> dict[str, int]:
    """Series to how many its mask in Parquet has."""
    return {found.series_key: int(found.mask.sum()) for found in read_masks(store.parquet)}


def test_results_are_those_of_a_disk(submission: Submission, archive: Path, bucket: RemotePath, tmp_path: Path) -> None:
    """Every value of every finding, every mask; a second run has nothing to do; what is erased is gone."""
    there = moved(submission, archive, bucket, tmp_path / "there.db")
    store = Store(bucket / "store")
    assert submit(submission).complete
    report = submit(there)
    assert (report.outcomes["segmented"], report.files.refused, report.complete) == (3, 0, True)
    assert preview(there).already_done == 3
    assert submit(there).status == "nothing_to_do"
    on_disk = Store(submission.store_root)
    with closing(open_database(sqlite_url(on_disk.database_path))) as database:
        expected = measured(database)
    with closing(open_database(str(there.database_url))) as database:
        assert measured(database) == expected
        assert list(verify(store, database)) == []
        for row in expected:
            assert (store.root / row[-2]).read_bytes() == (on_disk.root / row[-2]).read_bytes()
        assert voxels(store) == voxels(on_disk)
        assert matches(store.root, "*.key") == []
        erase_subject(store, database, expected[0][1])
        assert len(matches(store.masks, "*/*/*/mask.nii.gz")) == len(measured(database)) == 2
        assert list(verify(store, database)) == []
        assert collect_garbage(store, database, dry_run=True) == []


def test_a_data_set_prepared_from_objects_is_that_of_a_disk(archive: Path, bucket: RemotePath, tmp_path: Path) -> None:
    """Images, labels and what is written: all are objects, and the digest is the same."""
    copy_tree(archive, bucket / "archive")

    def prepared(root: AnyPath, out: AnyPath) -> PreparationReport:
        source = ArchiveSource(path=root / "dicom", label_dir=root / "labels", store_root=tmp_path)
        recipe = Recipe(preprocessing=PreprocessingConfig(image_size=16))
        return prepare(PreparationRequest(source=source, recipe=recipe, out=str(out)))

    there = prepared(bucket / "archive", bucket / "prepared")
    assert (there.complete, len(there.manifest.subjects)) == (True, 3)
    assert there.manifest.digest == prepared(archive, tmp_path / "prepared").manifest.digest


@pytest.fixture
def server_of_its_own() -> Iterator[Server]:
    with s3_server() as server:
        yield server


@pytest.mark.slow
def test_a_run_outlasts_an_object_store_that_hangs(
    submission: Submission, archive: Path, server_of_its_own: Server, tmp_path: Path
) -> None:
    """Stopped after the first series for longer than a request waits: the run goes on, every finding is there once."""
    there = moved(submission, archive, make_bucket(server_of_its_own.endpoint, "bucket"), tmp_path / "there.db")

    def stop_once(progress: Progress) -> None:
        if progress.series_done == 1:
            os.kill(server_of_its_own.pid, signal.SIGSTOP)
            threading.Timer(8.0, os.kill, (server_of_its_own.pid, signal.SIGCONT)).start()

    report = submit(there, stop_once)
    assert (report.status, report.outcomes["segmented"], report.complete) == ("finished", 3, True)
    with closing(open_database(str(there.database_url))) as database:
        assert run_summary(database, report.run_id).outcomes["segmented"] == 3
        assert list(verify(Store(there.store_root), database)) == []


def test_what_an_object_store_needs_is_said(
    in_this_process: InThisProcess, bucket: RemotePath, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database, a key, a place that is there, a directory to train in: each is asked for by name."""
    database = ["--db", sqlite_url(tmp_path / "results.db")]
    no_database = in_this_process("submit", "--study-dir", archive, "--store", bucket)
    assert (no_database.exit_code, "name a database with --db" in no_database.stderr) == (2, True)
    nowhere = in_this_process("submit", "--study-dir", bucket / "none", "--store", bucket, *database)
    assert (nowhere.exit_code, "does not exist" in nowhere.stderr) == (2, True)
    monkeypatch.delenv("VAESEG_SUBJECT_KEY")
    no_key = in_this_process("submit", "--study-dir", archive, "--store", bucket, *database)
    assert (no_key.exit_code, "give it in $VAESEG_SUBJECT_KEY" in no_key.stderr) == (1, True)
    training = in_this_process("train", "vae", "--data", tmp_path, "--name", "mine", "--store", bucket)
    assert (training.exit_code, "model import FILE --name mine --store s3://" in training.stderr) == (2, True)
