from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest

from vaeseg.io.listing import count_there, list_directory, walk
from vaeseg.paths import AnyPath
from vaeseg.remote import RemotePath


def test_what_lies_below_is_listed_by_name_and_links_are_not_followed(tmp_path: Path) -> None:
    """Sizes are those of the entries themselves; an excluded directory is not there."""
    for name in ("b/2.dcm", "b/1.dcm", "a/deep/3.dcm", "store/4.dcm"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    (tmp_path / "b" / "link").symlink_to(tmp_path / "a")
    found = {listing.directory: listing for listing in walk(tmp_path, exclude=[tmp_path / "store"])}
    assert sorted(found) == ["", "a", "a/deep", "b"]
    assert found[""].directories == ("a", "b")
    assert [(file.path, file.size) for file in found["b"].files[:2]] == [("b/1.dcm", 5), ("b/2.dcm", 5)]
    assert found["b"].files[2].size == (tmp_path / "b" / "link").lstat().st_size
    assert found["a/deep"].files[0].mtime_ns == (tmp_path / "a/deep/3.dcm").stat().st_mtime_ns


def test_an_object_store_is_listed_as_a_directory_is(bucket: RemotePath, tmp_path: Path) -> None:
    """Names, sizes and what is excluded; a prefix that is gone is no listing, and a root that is gone an error."""
    for root in (bucket, tmp_path):
        for name in ("b/2.dcm", "b/1.dcm", "a/deep/3.dcm", "store/4.dcm"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(b"12345")

    def listed(root: AnyPath) -> list[tuple[str, tuple[str, ...], list[tuple[str, int]]]]:
        walked = walk(root, exclude=[root / "store"])
        return [(one.directory, one.directories, [(file.path, file.size) for file in one.files]) for one in walked]

    assert listed(bucket) == listed(tmp_path)
    age = time.time() - list_directory(bucket, "b").files[0].mtime_ns / 1e9
    assert -5 < age < 600
    gone = list_directory(bucket, "none")
    assert (gone.files, gone.is_readable) == ((), False)
    with pytest.raises(FileNotFoundError):
        list_directory(bucket / "none", "")


def test_objects_without_a_name_are_one_that_cannot_be_listed(bucket: RemotePath, s3: str) -> None:
    """A key with an empty part, or a part that is a dot, names no file, and stands for no end of directories."""
    client = boto3.client("s3", endpoint_url=s3)
    for key in ("/1.dcm", "a/2.dcm", "a//3.dcm", "b/./4.dcm", "c/c/5.dcm"):
        client.put_object(Bucket=bucket.base.removeprefix("s3://"), Key=key, Body=b"1")
    found = {one.directory: [file.path for file in one.files] for one in walk(bucket)}
    assert found == {"": ["/."], "a": ["a/.", "a/2.dcm"], "b": ["b/."], "c": [], "c/c": ["c/c/5.dcm"]}


def test_an_entry_that_a_share_tells_twice_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As others come and go meanwhile."""
    for name in ("1.dcm", "2.dcm"):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / name).touch()
    really = os.scandir

    @contextmanager
    def twice(path: Path) -> Iterator[list[os.DirEntry[str]]]:
        yield [*really(path), *really(path)]

    monkeypatch.setattr("vaeseg.io.listing.os.scandir", twice)
    found = list(walk(tmp_path))
    assert [(one.directory, [file.path for file in one.files]) for one in found] == [
        ("", []),
        ("a", ["a/1.dcm", "a/2.dcm"]),
    ]


@dataclass
class Entry:
    """As `os.scandir` gives it, of a file whose status is not told."""

    name: str
    error: type[OSError]

    def is_dir(self, *, follow_symlinks: bool) -> bool:
        return follow_symlinks

    def stat(self, *, follow_symlinks: bool) -> None:
        raise self.error(13, "no")


@pytest.mark.parametrize(("error", "is_readable"), [(PermissionError, False), (FileNotFoundError, True)])
def test_a_directory_whose_files_cannot_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[OSError], is_readable: bool
) -> None:
    """It may be listed and not searched: that is no listing. A file that is gone meanwhile is left out."""

    @contextmanager
    def scanned(_: Path) -> Iterator[list[Entry]]:
        yield [Entry("1.dcm", error)]

    (tmp_path / "a").mkdir()
    monkeypatch.setattr("vaeseg.io.listing.os.scandir", scanned)
    listing = list_directory(tmp_path, "a")
    assert (listing.is_readable, [file.path for file in listing.files]) == (is_readable, [] if is_readable else ["a/."])


def test_a_directory_of_which_nothing_is_told_is_no_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its share dropped out: neither its files nor its own status."""
    (tmp_path / "a").mkdir()

    def stale(path: Path) -> None:
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    monkeypatch.setattr("vaeseg.io.listing.os.scandir", stale)
    monkeypatch.setattr(Path, "lstat", stale)
    listing = list_directory(tmp_path, "a")
    assert (listing.is_readable, [file.path for file in listing.files]) == (False, ["a/."])
    with pytest.raises(OSError, match="Stale"):
        list_directory(tmp_path, "")


def test_files_are_counted_that_are_there(bucket: RemotePath, tmp_path: Path) -> None:
    """By name; in an archive that is empty, or gone, nothing is known of them."""
    paths = ["a/1.dcm", "a/2.dcm", "b/c/3.dcm", "4.dcm"]
    for root in (tmp_path / "root", bucket):
        assert count_there(root, paths) is None
        for name in ("a/2.dcm", "a/5.dcm", "4.dcm"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(b"1")
        assert count_there(root, paths) == 2


def test_files_below_a_directory_that_is_closed_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be there; what lay in a directory that is gone is not."""
    (tmp_path / "a").mkdir()
    scandir = os.scandir

    def closed(path: Path) -> Iterator[os.DirEntry[str]]:
        if path == tmp_path / "a":
            raise PermissionError
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert count_there(tmp_path, ["a/1.dcm", "a/2.dcm", "b/1.dcm"]) == 2
