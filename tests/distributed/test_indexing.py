from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
from factories import write_series
from file_counts import count_files
from sqlalchemy import select, text

from vaeseg.config import ReadingConfig
from vaeseg.db.archives import ensure_archive, index_counts
from vaeseg.db.index_files import KnownFile, known_files, record_files
from vaeseg.db.index_series import readable_series, refused_files
from vaeseg.db.series_files import series_with_files
from vaeseg.db.session import Database
from vaeseg.db.tables import SeriesTable
from vaeseg.distributed import index_tasks, indexing, judging, runs
from vaeseg.distributed.indexing import IndexJob, IndexReport, manifests_of, update_index
from vaeseg.distributed.spread import on_ray
from vaeseg.errors import ReadingError, StoreError
from vaeseg.io import archive, listing
from vaeseg.io.archive import NIFTI_SUFFIXES, scan_archive
from vaeseg.io.dicom import SubjectKeyer
from vaeseg.io.listing import FoundFile
from vaeseg.records import Reason

SECRET = b"k" * 32
UID = "1.2.826.0.1.77"
HALF_AN_HOUR = 1800.0


def job_for(database: Database, root: Path, stable_seconds: float = 0.0) -> IndexJob:
    return IndexJob(
        archive_id=ensure_archive(database, str(root)),
        root=root,
        reading=ReadingConfig(),
        exclude=(root / "store",),
        secret=SECRET,
        stable_seconds=stable_seconds,
    )


def nothing() -> None:
    return


def index(database: Database, root: Path, stable_seconds: float = 0.0) -> IndexReport:
    return update_index(database, job_for(database, root, stable_seconds), nothing)


def keys(database: Database, root: Path) -> list[str]:
    return [name.series_key for name in readable_series(database, ensure_archive(database, str(root)))]


def fingerprints(database: Database, root: Path) -> dict[str, str]:
    manifests = manifests_of(database, job_for(database, root), keys(database, root))
    return {key: str(sorted(file.sop_instance_uid for file in manifest.files)) for key, manifest in manifests.items()}


def age(path: Path, seconds: float) -> None:
    """Make every file below look as if it changed so long ago."""
    moment = time.time() - seconds
    for file in path.rglob("*"):
        os.utime(file, (moment, moment))


@pytest.fixture
def ugly(tmp_path: Path) -> Path:
    """Two volumes under one UID, one study twice, damage beside a series, a localizer, NIfTI, junk, a store."""
    root = tmp_path / "archive"
    write_series(root / "a", SeriesInstanceUID=f"{UID}.1")
    write_series(root / "b", SeriesInstanceUID=f"{UID}.2", per_slice={k: {"AcquisitionNumber": 1} for k in range(6)})
    write_series(
        root / "b" / "again",
        SeriesInstanceUID=f"{UID}.2",
        per_slice={k: {"AcquisitionNumber": 2, "SOPInstanceUID": f"{UID}.2.9.{k}"} for k in range(6)},
    )
    write_series(root / "c", SeriesInstanceUID=f"{UID}.1", StudyInstanceUID=f"{UID}.99")
    write_series(root / "d", SeriesInstanceUID=f"{UID}.4")
    (root / "d" / "cut.dcm").write_bytes((root / "d").glob("*").__next__().read_bytes()[:300])
    write_series(root / "e", SeriesInstanceUID=f"{UID}.5", Modality="MR")
    shutil.copytree(root / "a", root / "f")
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 8, 4), dtype=np.int16), np.eye(4)), root / "v.nii.gz")
    (root / "notes.txt").write_text("nothing")
    (root / "empty.dcm").touch()
    (root / "link.dcm").symlink_to(root / "notes.txt")
    write_series(root / "store", SeriesInstanceUID=f"{UID}.6")
    return root


def test_the_index_is_what_a_scan_finds(database: Database, ugly: Path) -> None:
    """Series by series and file by file: the same verdicts, manifests and counts."""
    index(database, ugly)
    scan = scan_archive(ugly, ReadingConfig(), SubjectKeyer(SECRET), exclude=[ugly / "store"])
    wanted = {verdict.series_key: verdict.manifest for verdict in scan.verdicts if verdict.manifest is not None}
    assert manifests_of(database, job_for(database, ugly), list(wanted)) == wanted
    assert keys(database, ugly) == sorted(wanted)
    archive_id = ensure_archive(database, str(ugly))
    assert count_files(database, archive_id) == scan.file_count
    refused = [verdict for verdict in scan.verdicts if verdict.ref is not None and not verdict.readable]
    assert sum(index_counts(database, archive_id).refused_by_reason.values()) == len(refused)


def test_a_series_whose_files_are_all_gone_has_no_manifest(database: Database, tmp_path: Path) -> None:
    """They vanished, and a scan was killed before it judged that: the next plan leaves the series out."""
    write_series(tmp_path, SeriesInstanceUID=f"{UID}.1")
    index(database, tmp_path)
    (series,) = keys(database, tmp_path)
    archive_id = ensure_archive(database, str(tmp_path))
    record_files(database, archive_id, 1, vanished=[path.name for path in tmp_path.iterdir()])
    assert manifests_of(database, job_for(database, tmp_path), [series]) == {}


def test_an_unchanged_archive_is_only_listed(database: Database, ugly: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No header is read, nothing is judged."""
    first = index(database, ugly)
    assert first.n_read == first.n_listed

    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(index_tasks, "read_headers", refuse)
    again = index(database, ugly)
    assert (again.n_listed, again.n_read, again.n_judged, again.n_vanished) == (first.n_listed, 0, 0, 0)


def test_a_late_slice_is_the_only_one_read(database: Database, tmp_path: Path) -> None:
    """Its series has another fingerprint then, and the others are not judged."""
    late = write_series(tmp_path / "a", SeriesInstanceUID=f"{UID}.1").paths[-1]
    write_series(tmp_path / "b", SeriesInstanceUID=f"{UID}.2")
    content = late.read_bytes()
    late.unlink()
    index(database, tmp_path)
    before = fingerprints(database, tmp_path)
    late.write_bytes(content)
    report = index(database, tmp_path)
    after = fingerprints(database, tmp_path)
    assert (report.n_read, report.n_judged) == (1, 1)
    assert (before[f"{UID}.1"] != after[f"{UID}.1"], before[f"{UID}.2"]) == (True, after[f"{UID}.2"])


def test_a_file_that_changes_in_place_is_read_again(database: Database, tmp_path: Path) -> None:
    """By size or by time of change."""
    series = write_series(tmp_path, SeriesInstanceUID=f"{UID}.1")
    index(database, tmp_path)
    age(tmp_path, 60)
    assert index(database, tmp_path).n_read == len(series.paths)
    series.paths[0].write_bytes(b"no longer DICOM")
    assert index(database, tmp_path).n_read == 1
    counted = count_files(database, ensure_archive(database, str(tmp_path)))
    assert counted.refused_by_reason == {"not_an_image": 1}


def test_a_file_that_cannot_be_read_is_tried_again(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scan after scan, since neither its size nor its time tells that a share is back or permission was given."""
    series = write_series(tmp_path, SeriesInstanceUID=f"{UID}.1")
    write_series(tmp_path / "b", SeriesInstanceUID=f"{UID}.2")
    really_look, closed = archive.check_regular, set(series.paths)

    def look(path: Path, file: FoundFile) -> None:
        if path in closed:
            raise PermissionError(13, "Permission denied")
        really_look(path, file)

    monkeypatch.setattr(archive, "check_regular", look)
    index(database, tmp_path)
    counted = count_files(database, ensure_archive(database, str(tmp_path)))
    assert counted.refused_by_reason == {"unreadable_file": len(series.paths)}
    assert index(database, tmp_path).n_read == len(series.paths)
    closed.clear()
    assert index(database, tmp_path).n_read == len(series.paths)
    assert keys(database, tmp_path) == [f"{UID}.1", f"{UID}.2"]
    assert index(database, tmp_path).n_read == 0


def test_a_volume_that_cannot_be_read_is_tried_again(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a DICOM file is, wherever in its reading the disk gave up."""
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), dtype=np.int16), np.eye(4)), tmp_path / "a.nii.gz")

    def fail(*_: object) -> None:
        raise ReadingError(Reason.UNREADABLE_FILE, "cannot be opened (OSError)")

    with monkeypatch.context() as patch:
        patch.setattr(archive, "read_nifti_header", fail)
        index(database, tmp_path)
        assert keys(database, tmp_path) == []
    assert index(database, tmp_path).n_read == 1
    assert len(keys(database, tmp_path)) == 1


def test_refused_volumes_are_known_by_their_names(database: Database, tmp_path: Path) -> None:
    """Damaged within or from its first byte; not the one that is read, nor a file that is gone.

    A run gives no label by such a name.
    """
    (tmp_path / "p").mkdir()
    nibabel.save(
        nibabel.Nifti1Image(np.arange(4096, dtype=np.int16).reshape(16, 16, 16), np.eye(4)), tmp_path / "whole.nii"
    )
    (tmp_path / "p" / "Cut.NII").write_bytes((tmp_path / "whole.nii").read_bytes()[:100])
    for name in ("none.nii.gz", "gone.nii.gz", "notes.txt"):
        (tmp_path / "p" / name).write_bytes(b"junk")
    index(database, tmp_path)
    (tmp_path / "p" / "gone.nii.gz").unlink()
    index(database, tmp_path)
    archive_id = ensure_archive(database, str(tmp_path))
    assert sorted(refused_files(database, archive_id, NIFTI_SUFFIXES)) == ["p/Cut.NII", "p/none.nii.gz"]
    (tmp_path / "p" / "whole.nii.gz").write_bytes(b"junk")
    run: Any = SimpleNamespace(database=database, job=job_for(database, tmp_path), outlasting=lambda work: work())
    (before,) = runs._label_names(run, readable_series(database, archive_id)).values()
    index(database, tmp_path)
    (after,) = runs._label_names(run, readable_series(database, archive_id)).values()
    assert ("whole" in before, "whole" in after) == (True, False)


@pytest.mark.parametrize("leaves", ["nothing", "an empty directory"])
def test_an_archive_that_drops_out_while_it_is_read_loses_nothing(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leaves: str
) -> None:
    """The scan ends with a line, records nothing of files that could not be opened, and the next one reads them."""
    root, away = tmp_path / "archive", tmp_path / "away"
    series = write_series(root, SeriesInstanceUID=f"{UID}.1")
    really_look = archive.check_regular

    def look(path: Path, file: FoundFile) -> None:
        if path == series.paths[2]:
            root.rename(away)
            if leaves != "nothing":
                root.mkdir()
        really_look(path, file)

    with monkeypatch.context() as patch:
        patch.setattr(archive, "check_regular", look)
        with pytest.raises(StoreError, match="is the file system mounted"):
            index(database, root)
    if root.exists():
        root.rmdir()
    away.rename(root)
    assert index(database, root).n_read == len(series.paths)
    assert keys(database, root) == [f"{UID}.1"]


@pytest.mark.parametrize("seconds", [9.3e9, -9.3e9])
def test_a_time_that_no_database_holds_is_one_that_it_holds(
    database: Database, tmp_path: Path, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the year 2262 and before 1677, as a broken clock writes it: indexed once, and not again."""
    series = write_series(tmp_path, SeriesInstanceUID=f"{UID}.1")
    really_found = listing._found

    def found(path: str, status: os.stat_result) -> FoundFile:
        """File systems of tests may not hold such a time themselves."""
        return really_found(path, SimpleNamespace(st_size=status.st_size, st_mtime_ns=int(seconds * 1e9)))

    monkeypatch.setattr(listing, "_found", found)
    assert index(database, tmp_path).n_read == len(series.paths)
    assert index(database, tmp_path).n_read == 0
    assert keys(database, tmp_path) == [f"{UID}.1"]


@pytest.mark.parametrize(
    "change",
    [
        {"PixelRepresentation": 0},
        {"BitsStored": 12, "HighBit": 11},
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"RescaleType": "US"},
    ],
)
def test_a_header_corrected_in_place_makes_new_work(
    database: Database, tmp_path: Path, change: dict[str, object]
) -> None:
    """Whatever of it a mask or a finding depends on, with every file as large as before."""
    before = {"PixelRepresentation": 1, "RescaleType": "HU"}
    write_series(tmp_path, SeriesInstanceUID=f"{UID}.1", **before)
    index(database, tmp_path)
    first = stored_fingerprint(database)
    age(tmp_path, 60)
    index(database, tmp_path)
    assert stored_fingerprint(database) == first
    write_series(tmp_path, SeriesInstanceUID=f"{UID}.1", **(before | change))
    index(database, tmp_path)
    assert stored_fingerprint(database) != first


def stored_fingerprint(database: Database) -> str:
    with database.read() as connection:
        return str(connection.scalar(select(SeriesTable.fingerprint)))


def test_what_vanishes_is_missing_and_is_not_planned(database: Database, tmp_path: Path) -> None:
    """A file, then the directory; back in place they are found again without a header being read."""
    series = write_series(tmp_path / "a", SeriesInstanceUID=f"{UID}.1")
    write_series(tmp_path / "b", SeriesInstanceUID=f"{UID}.2")
    index(database, tmp_path)
    (tmp_path / "a").rename(tmp_path.parent / "elsewhere")
    report = index(database, tmp_path)
    assert (report.n_vanished, keys(database, tmp_path)) == (len(series.paths), [f"{UID}.2"])
    (tmp_path.parent / "elsewhere").rename(tmp_path / "a")
    report = index(database, tmp_path)
    assert (report.n_found_again, report.n_read) == (len(series.paths), 0)
    assert keys(database, tmp_path) == [f"{UID}.1", f"{UID}.2"]


def test_a_series_that_moved_is_the_same(database: Database, tmp_path: Path) -> None:
    """Its files are read where they lie now, and make the same series; so does a NIfTI volume."""
    write_series(tmp_path / "a", SeriesInstanceUID=f"{UID}.1")
    volume = tmp_path / "v.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 8, 4), dtype=np.int16), np.eye(4)), volume)
    index(database, tmp_path)
    before = readable_series(database, ensure_archive(database, str(tmp_path)))
    (tmp_path / "deep").mkdir()
    (tmp_path / "a").rename(tmp_path / "deep" / "other")
    volume.rename(tmp_path / "deep" / "w.nii.gz")
    index(database, tmp_path)
    after = readable_series(database, ensure_archive(database, str(tmp_path)))
    assert [name[:3] for name in after] == [name[:3] for name in before]
    manifest = manifests_of(database, job_for(database, tmp_path), [before[0].series_key])[before[0].series_key]
    assert manifest.series_key == before[0].series_key


def test_a_study_that_is_still_arriving_waits(database: Database, tmp_path: Path) -> None:
    """Young files are not in the index, their study is named; a file that is half there is not refused."""
    write_series(tmp_path / "a", SeriesInstanceUID=f"{UID}.1", StudyInstanceUID="1.5")
    write_series(tmp_path / "b", SeriesInstanceUID=f"{UID}.2", StudyInstanceUID="1.6")
    age(tmp_path, 2 * HALF_AN_HOUR)
    late = sorted((tmp_path / "b").iterdir())[0]
    os.utime(late)
    (tmp_path / "b" / "half.dcm").write_bytes(late.read_bytes()[:200])
    report = index(database, tmp_path, HALF_AN_HOUR)
    assert (report.n_waiting, report.waiting_studies) == (2, {"1.6"})
    counted = count_files(database, ensure_archive(database, str(tmp_path)), report.n_waiting)
    assert (counted.found, counted.in_series, counted.refused, counted.waiting) == (13, 11, 0, 2)
    age(tmp_path, 2 * HALF_AN_HOUR)
    report = index(database, tmp_path, HALF_AN_HOUR)
    assert (report.n_waiting, report.waiting_studies) == (0, set())
    assert count_files(database, ensure_archive(database, str(tmp_path))).refused_by_reason == {
        "unreadable_instance": 1
    }


def test_a_file_from_the_future_does_not_wait_for_ever(database: Database, tmp_path: Path) -> None:
    """A wrong clock on the machine that wrote it."""
    write_series(tmp_path, SeriesInstanceUID=f"{UID}.1")
    age(tmp_path, -30 * 24 * 3600)
    assert index(database, tmp_path, HALF_AN_HOUR).n_waiting == 0


def test_damage_that_comes_later_warns_the_series_beside_it(database: Database, tmp_path: Path) -> None:
    """And no longer once it is gone."""
    paths = write_series(tmp_path, SeriesInstanceUID=f"{UID}.1").paths

    def warnings() -> tuple[str, ...]:
        index(database, tmp_path)
        (series,) = series_with_files(database, ensure_archive(database, str(tmp_path)), [f"{UID}.1"])
        return series.warnings

    assert warnings() == ()
    (tmp_path / "cut.dcm").write_bytes(paths[0].read_bytes()[:300])
    assert warnings() == ("instances_left_out",)
    (tmp_path / "cut.dcm").unlink()
    assert warnings() == ()


def test_what_cannot_be_listed_is_not_gone(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that is closed for a night loses nothing, in it or below; it is counted as refused. What the index
    knows of its files, which may be millions, is counted where it is and not fetched."""
    write_series(tmp_path / "a" / "deep", SeriesInstanceUID=f"{UID}.1")
    write_series(tmp_path / "a", SeriesInstanceUID=f"{UID}.3")
    write_series(tmp_path / "b", SeriesInstanceUID=f"{UID}.2")
    index(database, tmp_path)
    really_scan = os.scandir

    def closed(path: Path) -> object:
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied")
        return really_scan(path)

    fetched: set[str] = set()

    def noted(database: Database, archive_id: int, directories: Iterable[str]) -> dict[str, dict[str, KnownFile]]:
        fetched.update(directories := list(directories))
        return known_files(database, archive_id, directories)

    monkeypatch.setattr("vaeseg.io.listing.os.scandir", closed)
    monkeypatch.setattr(indexing, "known_files", noted)
    for _ in range(2):
        report = index(database, tmp_path)
        assert (report.n_vanished, report.n_listed, report.n_unseen) == (0, 7, 12)
        counted = count_files(database, ensure_archive(database, str(tmp_path)))
        assert (counted.in_series, counted.refused_by_reason) == (18, {"unreadable_file": 1})
    assert fetched == {"", "b"}
    monkeypatch.undo()
    assert index(database, tmp_path).n_vanished == 1
    assert count_files(database, ensure_archive(database, str(tmp_path))).refused == 0


def test_an_archive_that_is_not_mounted_is_an_error(database: Database, tmp_path: Path) -> None:
    """An empty directory where files were says nothing of the files."""
    root = tmp_path / "archive"
    write_series(root / "a", SeriesInstanceUID=f"{UID}.1")
    index(database, root)
    (root / "a").rename(tmp_path / "away")
    with pytest.raises(StoreError, match="mounted"):
        index(database, root)
    assert keys(database, root) == [f"{UID}.1"]
    root.rmdir()
    with pytest.raises(StoreError, match="cannot list"):
        index(database, root)


def test_stray_files_below_a_mount_point_are_no_archive(database: Database, tmp_path: Path) -> None:
    """They belong to the machine; once other images lie there, everything was replaced, and they are taken."""
    root = tmp_path / "archive"
    series = write_series(root / "a", SeriesInstanceUID=f"{UID}.1")
    index(database, root)
    (root / "a").rename(tmp_path / "away")
    (root / "README.txt").write_text("mount the share here")
    for _ in range(2):
        with pytest.raises(StoreError, match="mounted"):
            index(database, root)
    assert keys(database, root) == [f"{UID}.1"]
    write_series(root / "b", SeriesInstanceUID=f"{UID}.2")
    assert index(database, root).n_vanished == len(series.paths)
    assert keys(database, root) == [f"{UID}.2"]
    (root / "b").rename(tmp_path / "away too")
    with pytest.raises(StoreError, match="mounted"):
        index(database, root)  # the stray file is known by now, and still no image
    (tmp_path / "away").rename(root / "a")
    assert index(database, root).n_found_again == len(series.paths)  # images that were gone for a while are images
    shutil.rmtree(root / "a")
    write_series(root / "c", SeriesInstanceUID=f"{UID}.3")
    assert index(database, root, stable_seconds=60.0).n_waiting > 0  # and so are those that still arrive


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("page", [10, 15, 1000])
def test_tasks_judge_as_the_driver_does(
    database: Database, ugly: Path, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    """Group by group and page by page, some of several groups, in whatever order they are done."""
    monkeypatch.setattr(judging, "FILES_JUDGED", page)
    index(database, ugly)
    archive_id = ensure_archive(database, str(ugly))
    judged_here = whole_series(database)
    with database.write() as connection:
        groups = connection.execute(text("SELECT DISTINCT group_key FROM instances WHERE group_key IS NOT NULL")).all()
        connection.execute(text("UPDATE instances SET series_id = NULL"))
        connection.execute(text("DELETE FROM series"))
        for (group,) in groups:
            connection.execute(
                text("INSERT INTO changed_groups (archive_id, group_key) VALUES (:archive, :group)"),
                {"archive": archive_id, "group": group},
            )
    monkeypatch.setattr(judging, "FILES_A_TASK", 1)
    monkeypatch.setattr(judging, "here_at_first", lambda *arguments: reversed(list(on_ray(*arguments))))
    assert judging.judge_changed(database, archive_id, ugly, ReadingConfig(), nothing) == len(groups)
    assert whole_series(database) == judged_here


def whole_series(database: Database) -> list[tuple[Any, ...]]:
    """All of them but ids and times, each with its files."""
    left_out = {"id", "first_seen_at", "judged_at"}
    with database.read() as connection:
        rows = connection.execute(text("SELECT * FROM series ORDER BY series_key")).mappings().all()
        paths = "SELECT path FROM instances WHERE series_id = :id ORDER BY path"
        return [
            (
                *(value for name, value in row.items() if name not in left_out),
                *connection.scalars(text(paths), {"id": row["id"]}),
            )
            for row in rows
        ]


class StopError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("calls", range(1, 8))
def test_a_scan_that_is_killed_is_gone_on_with(
    database: Database, ugly: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """Wherever it stops, the next one ends with the same index, and reads nothing twice that was recorded."""
    monkeypatch.setattr(indexing, "FILES_COMPARED", 8)
    monkeypatch.setattr(indexing, "FILES_READ", 16)
    monkeypatch.setattr(indexing, "FILES_RECORDED", 8)
    monkeypatch.setattr(judging, "FILES_JUDGED", 1)
    left = calls

    def stop_at_last(_: object) -> Callable[..., None]:
        def wrapped(*arguments: object, **named: object) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise StopError
            really[_](*arguments, **named)  # type: ignore[index]

        return wrapped

    modules = {"record_files": indexing, "record_groups": judging}
    really = {name: getattr(module, name) for name, module in modules.items()}
    for name, module in modules.items():
        monkeypatch.setattr(module, name, stop_at_last(name))
    with pytest.raises(StopError):
        index(database, ugly)
    for name, function in really.items():
        monkeypatch.setattr(modules[name], name, function)
    index(database, ugly)
    scan = scan_archive(ugly, ReadingConfig(), exclude=[ugly / "store"])
    wanted = sorted(verdict.ref.series_instance_uid for verdict in scan.verdicts if verdict.ref and verdict.readable)
    archive_id = ensure_archive(database, str(ugly))
    assert sorted(name.series_instance_uid for name in readable_series(database, archive_id)) == wanted
    assert count_files(database, archive_id) == scan.file_count


def test_a_newer_reader_reads_everything_again(database: Database, ugly: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an older one kept may not be what the newer wants."""
    first = index(database, ugly)
    monkeypatch.setattr(indexing, "READER_VERSION", indexing.READER_VERSION + 1)
    assert index(database, ugly).n_read == first.n_read


def test_the_day_of_a_study_is_in_the_index(database: Database, ugly: Path) -> None:
    """Of every DICOM series, read or kept from an earlier scan; a NIfTI volume has none."""
    index(database, ugly)
    (ugly / "d" / "cut.dcm").unlink()  # so that its group is judged again, from what the index has
    index(database, ugly)
    with database.read() as connection:
        found = connection.execute(select(SeriesTable.modality, SeriesTable.study_date, SeriesTable.verdict)).all()
    assert {row.study_date for row in found if row.modality == "CT"} == {date(2020, 1, 1)}
    assert {row.study_date for row in found if row.modality is None} == {None}
    assert {row.verdict for row in found} == {"readable", "refused"}


def test_the_secret_is_not_shown(database: Database, tmp_path: Path) -> None:
    """A job travels to workers and may end in a log."""
    assert "kkk" not in repr(replace(job_for(database, tmp_path), stable_seconds=1.0))
