"""Whatever lies in a directory is found once, judged once, and never followed out of it."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from factories import axial_affine_ras, stored_values, write_nifti, write_series
from reading import CONFIG, assert_volume, judge, read_one, reasons

from vaeseg.errors import ReadingError, StoreError
from vaeseg.io import archive
from vaeseg.io.archive import scan_archive
from vaeseg.io.listing import FoundFile
from vaeseg.io.manifest import SeriesManifest
from vaeseg.io.volume import read_volume


def test_an_empty_folder(tmp_path: Path) -> None:
    """Nothing found, nothing refused."""
    assert reasons(tmp_path) == {}
    assert scan_archive(tmp_path, CONFIG).file_count.found == 0


def test_junk_of_every_kind(tmp_path: Path) -> None:
    """Each has a reason, and the series among it is read."""
    series = write_series(tmp_path / "deep" / "er")
    (tmp_path / "empty").touch()
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "notes.dcm").write_text("these are notes\n" * 50)
    (tmp_path / "short").write_bytes(b"\x01")
    (tmp_path / "random.bin").write_bytes(random.Random(1).randbytes(5000))
    (tmp_path / "zeros").write_bytes(bytes(5000))
    (tmp_path / "almost").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "bare").write_bytes(b"\x08\x00" + b"junk" * 100)
    (tmp_path / "archive.zip").write_bytes(b"PK\x03\x04" + bytes(600))
    (tmp_path / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(600))
    found = reasons(tmp_path)
    assert found.pop("readable") == 6
    assert found == {"empty_file": 2, "not_an_image": 6, "unreadable_instance": 2}
    assert_volume(read_one(tmp_path), series.hu, axial_affine_ras())


def test_links_are_counted_and_not_followed(tmp_path: Path) -> None:
    """To a file inside, outside, nowhere, to a directory, and round in a circle."""
    inside, outside = tmp_path / "archive", tmp_path / "outside"
    write_series(inside / "a")
    secret = write_series(outside, SeriesInstanceUID="1.2.3")
    (inside / "to_file").symlink_to(inside / "a" / "000.dcm")
    (inside / "to_outside").symlink_to(secret.paths[0])
    (inside / "to_nowhere").symlink_to(tmp_path / "nothing")
    (inside / "to_directory").symlink_to(outside)
    (inside / "loop").symlink_to(inside)
    (inside / "self").symlink_to(inside / "self")
    assert reasons(inside) == {"readable": 6, "link_not_followed": 6}


def test_a_link_given_by_the_user_is_followed(tmp_path: Path) -> None:
    """Links are distrusted inside an archive, not on the command line."""
    write_series(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert reasons(tmp_path / "link") == {"readable": 6}


def test_what_is_no_file(tmp_path: Path) -> None:
    """A pipe would block for ever, a socket cannot be opened; the same where it is the path given."""
    write_series(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        assert reasons(tmp_path) == {"readable": 6, "not_a_regular_file": 2}
    assert reasons(tmp_path / "pipe") == {"not_a_regular_file": 1}


@pytest.mark.parametrize("name", [b"caf\xe9.dcm", b"new\nline.dcm", b"quote\"'.dcm", "日本語".encode(), b" ", b"-rf"])
def test_file_names_of_every_kind(tmp_path: Path, name: bytes) -> None:
    """Bytes that are not UTF-8, newlines and the like are names as any other."""
    series = write_series(tmp_path)
    series.paths[3].rename(tmp_path / os.fsdecode(name))
    assert_volume(read_one(tmp_path), series.hu, axial_affine_ras())


def test_a_single_file_is_a_path(tmp_path: Path) -> None:
    """One DICOM slice is no volume; one NIfTI is."""
    series = write_series(tmp_path)
    assert reasons(series.paths[0]) == {"single_slice": 1}
    write_nifti(tmp_path / "v.nii", series.stored.T)
    assert reasons(tmp_path / "v.nii") == {"readable": 1}


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused by name of the reason, and the series warned that a slice may be missing."""
    series = write_series(tmp_path)
    denied = series.paths[5]
    really_open = Path.open

    def open_unless_denied(path: Path, *args: object, **options: object) -> object:
        if path == denied:
            raise PermissionError(13, "Permission denied", str(path))
        return really_open(path, *args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", open_unless_denied)
    assert reasons(tmp_path) == {"readable": 5, "unreadable_file": 1}
    assert read_one(tmp_path).warnings == ("instances_left_out",)


def test_a_directory_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted as one refused entry below the root; the root itself is an error."""
    write_series(tmp_path / "a")
    (tmp_path / "closed").mkdir()
    really_scan = os.scandir

    def scan_unless_closed(path: Path) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return really_scan(path)

    monkeypatch.setattr("vaeseg.io.listing.os.scandir", scan_unless_closed)
    assert reasons(tmp_path) == {"readable": 6, "unreadable_file": 1}
    with pytest.raises(PermissionError):
        scan_archive(tmp_path / "closed", CONFIG)


def test_a_file_that_vanishes_while_scanning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gone before it is looked at: not found. Gone before it is opened: refused."""
    series = write_series(tmp_path)
    really_look = archive.check_regular

    def look_too_late(path: Path, file: FoundFile) -> None:
        if path == series.paths[5]:
            path.unlink()
        really_look(path, file)

    monkeypatch.setattr(archive, "check_regular", look_too_late)
    assert reasons(tmp_path) == {"readable": 5, "unreadable_file": 1}


def test_a_file_that_changes_after_the_scan_is_noticed(tmp_path: Path) -> None:
    """Gone, or another slice in its place: refused, as the index no longer tells the truth."""
    series = write_series(tmp_path)
    scan = scan_archive(tmp_path, CONFIG)
    manifest = scan.verdicts[0].manifest
    assert manifest is not None
    shutil.copyfile(series.paths[1], series.paths[3])
    with pytest.raises(ReadingError, match="changed_while_reading"):
        read_volume(scan.root, manifest, CONFIG)
    series.paths[3].unlink()
    with pytest.raises(ReadingError, match="changed_while_reading"):
        read_volume(scan.root, manifest, CONFIG)


@pytest.mark.parametrize(
    "corrected",
    [
        {"PixelSpacing": [0.9, 0.9]},
        {"ImageOrientationPatient": [0.0, 1.0, 0.0, -1.0, 0.0, 0.0]},
        {"RescaleSlope": "2"},
        {"RescaleIntercept": None},
        {"PixelRepresentation": 1},
        {"SOPInstanceUID": "1.2.3"},
    ],
)
def test_a_header_that_is_corrected_after_the_scan_is_noticed(tmp_path: Path, corrected: dict[str, Any]) -> None:
    """Its voxels would have the size, place or values of the header before."""
    write_series(tmp_path)
    scan = scan_archive(tmp_path, CONFIG)
    manifest = scan.verdicts[0].manifest
    assert manifest is not None
    manifest = SeriesManifest.from_json(manifest.to_json())
    read_volume(scan.root, manifest, CONFIG)
    write_series(tmp_path, per_slice={4: corrected})
    with pytest.raises(ReadingError, match="changed_while_reading"):
        read_volume(scan.root, manifest, CONFIG)


def test_a_manifest_of_another_version_stops_the_run(tmp_path: Path) -> None:
    """A node that was not updated fails no series."""
    write_series(tmp_path)
    manifest = scan_archive(tmp_path, CONFIG).verdicts[0].manifest
    assert manifest is not None
    of_before = {name: value for name, value in json.loads(manifest.to_json()).items() if name != "format"}
    with pytest.raises(StoreError, match="install the same on every node"):
        SeriesManifest.from_json(json.dumps(of_before))


@pytest.mark.parametrize(("n_slices", "pixel_mm"), [(6, 3.0), (5, 1.0)])
def test_a_nifti_file_that_is_replaced_after_the_scan_is_noticed(
    tmp_path: Path, n_slices: int, pixel_mm: float
) -> None:
    """What is found in it would be measured by the spacing of the file before."""
    values = stored_values().T.astype(np.int16) - 1024
    write_nifti(tmp_path / "v.nii.gz", values, np.diag([1.0, 1.0, 2.5, 1.0]))
    scan = scan_archive(tmp_path, CONFIG)
    manifest = scan.verdicts[0].manifest
    assert manifest is not None
    write_nifti(tmp_path / "v.nii.gz", values[..., :n_slices], np.diag([pixel_mm, pixel_mm, 2.5, 1.0]))
    with pytest.raises(ReadingError, match="changed_while_reading"):
        read_volume(scan.root, manifest, CONFIG)


def test_excluded_directories_are_not_entered(tmp_path: Path) -> None:
    """A store inside the archive is not part of it."""
    write_series(tmp_path / "a")
    write_series(tmp_path / "store", SeriesInstanceUID="1.2.3")
    scan = scan_archive(tmp_path, CONFIG, exclude=[tmp_path / "store"])
    assert scan.file_count.found == 6


def test_the_fingerprint_follows_content_and_not_place(tmp_path: Path) -> None:
    """A moved series is the same work; a late slice makes it new."""

    def fingerprint(directory: Path) -> str:
        return judge(directory)[0].verdict.fingerprint

    series = write_series(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b" / "c")
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")
    series.paths[5].unlink()
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b")


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PixelSpacing", ["0.85", "0.6"]),
        ("ImagePositionPatient", [-50.0, -30.0, 100.0]),
        ("ImageOrientationPatient", [1, 0, 0, 0, -1, 0]),
        ("RescaleIntercept", "-1000"),
    ],
)
def test_what_places_or_scales_the_pixels_is_part_of_the_fingerprint(
    tmp_path: Path, keyword: str, value: object
) -> None:
    """Corrected in place, files keep their instance UIDs, and most often their sizes."""
    path = write_series(tmp_path).paths[0]
    before, size = _fingerprints(tmp_path), path.stat().st_size
    instance = pydicom.dcmread(path)
    setattr(instance, keyword, value)
    instance.save_as(path)
    assert path.stat().st_size == size
    assert _fingerprints(tmp_path) != before


def _fingerprints(directory: Path) -> set[str]:
    return {verdict.fingerprint for verdict in scan_archive(directory, CONFIG).verdicts}


def test_a_manifest_survives_json(tmp_path: Path) -> None:
    """Geometry to the last bit, and names that are not UTF-8."""
    series = write_series(tmp_path)
    series.paths[3].rename(tmp_path / os.fsdecode(b"caf\xe9"))
    manifest = judge(tmp_path)[0].verdict.manifest
    assert manifest is not None
    assert SeriesManifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(("number", "reason"), [(5, "unreadable_file"), (22, "unreadable_instance")])
def test_an_error_of_the_disk_is_not_the_files_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    """EIO is tried again by the next scan; EINVAL comes of a damaged header that points to a place before the file."""
    write_series(tmp_path)

    def fail(*_: object) -> None:
        raise OSError(number, "so it is")

    with monkeypatch.context() as patch:
        patch.setattr("vaeseg.io.dicom.read_elements", fail)
        assert set(reasons(tmp_path)) == {reason}
    monkeypatch.setattr("vaeseg.io.pixels.read_whole", fail)
    assert set(reasons(tmp_path)) == {reason}


@pytest.mark.parametrize("where", ["vaeseg.io.archive.sha256_of", "vaeseg.io.nifti.read_whole"])
def test_an_error_of_the_disk_within_a_nifti_file_is_not_the_files_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """While it is listed, and while its voxels are read; nothing of it tells the path."""
    write_nifti(tmp_path / "CANARY.nii.gz", stored_values().T.astype(np.int16) - 1024)

    def fail(path: Path, *_: object) -> None:
        raise OSError(116, "Stale file handle", str(path))

    monkeypatch.setattr(where, fail)
    (judged,) = judge(tmp_path)
    assert judged.reason == "unreadable_file"
    assert "CANARY" not in judged.verdict.fingerprint + str(judged.detail)
