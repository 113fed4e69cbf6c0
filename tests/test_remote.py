"""Paths in an object store: the same as `pathlib` has it, and what is different there."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path, PurePath
from typing import Any

import pytest
from object_store import credentials

from vaeseg import remote
from vaeseg.durable import write_atomically
from vaeseg.errors import StoreError, UsageError
from vaeseg.io.ahead import read_ahead
from vaeseg.paths import AnyPath, any_path, below, entries, matches, move, remove_tree, sha256_of
from vaeseg.remote import RemotePath


@pytest.fixture(params=["directory", "object store"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> AnyPath:
    if request.param == "directory":
        return tmp_path
    bucket: RemotePath = request.getfixturevalue("bucket")
    return bucket


def test_files_are_written_found_and_removed(root: AnyPath) -> None:
    """Whole, under their names, in order; a directory goes when it is empty, and not before."""
    (root / "a" / "b").mkdir(parents=True, exist_ok=True)
    for name in ("y.bin", "x.bin", ".hidden"):
        write_atomically(root / "a" / "b" / name, name.encode())
    assert [str(below(path, root)) for path in matches(root, "a/*/*.bin")] == ["a/b/x.bin", "a/b/y.bin"]
    assert [path.name for path in matches(root / "a" / "b", "*")] == [".hidden", "x.bin", "y.bin"]
    assert matches(root / "none", "*/*") == []
    assert [(path.is_dir(), path.is_file(), path.exists()) for path in (root / "a", root / "a" / "b" / "x.bin")] == [
        (True, False, True),
        (False, True, True),
    ]
    with pytest.raises(OSError, match="not empty"):
        (root / "a" / "b").rmdir()
    for path in matches(root / "a" / "b", "*"):
        path.unlink()
    (root / "a" / "b").rmdir()
    assert not (root / "a" / "b").exists()


def test_what_lies_in_a_directory_is_listed_as_deep_as_asked(root: AnyPath, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, a directory before what it holds; of an object store by one listing, however many directories."""
    for name in ("top", "a-file", "a/z", "a/b/c/deep", "a.b/y"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(root / name, b"")
    listings: list[RemotePath] = []
    really_list = RemotePath.listed

    def counted(self: RemotePath, recursive: bool = False) -> list[Any]:
        listings.append(self)
        return really_list(self, recursive)

    monkeypatch.setattr(RemotePath, "listed", counted)
    levels = [("a", True), ("a/b", True), ("a/b/c", True), ("a/z", False), ("a-file", False), ("a.b", True)]
    expected = [*levels, ("a.b/y", False), ("top", False)]
    assert [(str(path), is_directory) for path, is_directory in entries(root, 3)] == expected
    assert len(listings) == isinstance(root, RemotePath)
    assert [str(path) for path, _ in entries(root, 1)] == ["a", "a-file", "a.b", "top"]
    assert list(entries(root / "none", 2)) == list(entries(root / "top", 2)) == []


def test_links_elsewhere_are_followed_and_closed_directories_are_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store may lie on several disks; what a link back leads to is there already."""
    (tmp_path / "elsewhere" / "b").mkdir(parents=True)
    (tmp_path / "root" / "closed").mkdir(parents=True)
    (tmp_path / "root" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "back").symlink_to(".")
    (tmp_path / "root" / "up").symlink_to("..")
    (tmp_path / "elsewhere" / "itself").symlink_to("itself")
    really_scan = os.scandir

    def closed(path: Path) -> object:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return really_scan(path)

    monkeypatch.setattr("vaeseg.paths.os.scandir", closed)
    found = [str(path) for path, is_directory in entries(tmp_path / "root", 2) if is_directory]
    assert found == ["a", "a/b", "closed"]
    assert {(PurePath("back"), False), (PurePath("up"), False)} <= set(entries(tmp_path / "root", 2))
    assert (PurePath("a/itself"), False) in entries(tmp_path / "root", 2)


def test_a_file_is_read_from_anywhere_in_it(root: AnyPath) -> None:
    """Size, digest, a piece in the middle, and more than is read ahead."""
    content = bytes(range(256)) * 4096
    write_atomically(root / "file", content)
    with (root / "file").open("rb") as file:
        assert file.read(4) == content[:4]
        file.seek(700_001)
        assert file.read(300_000) == content[700_001:1_000_001]
        assert file.read() == content[1_000_001:]
    assert (root / "file").stat().st_size == len(content)
    assert abs((root / "file").stat().st_mtime - time.time()) < 600
    assert sha256_of(root / "file") == "fbbab289f7f94b25736c58be46a994c441fd02552cc6022352e3d86d2fab7c83"


def test_a_moved_file_is_at_one_place(root: AnyPath) -> None:
    """It replaces what was there; one that is not there is an error."""
    (root / "one").mkdir()
    write_atomically(root / "one" / "file", b"new")
    write_atomically(root / "file", b"old")
    move(root / "one" / "file", root / "file")
    assert (root / "file").read_bytes() == b"new"
    assert not (root / "one" / "file").exists()
    with pytest.raises(FileNotFoundError):
        move(root / "one" / "file", root / "file")


def test_what_is_missing_is_said_to_be(root: AnyPath) -> None:
    """Reading, asking, removing and listing, with the error that `except OSError` expects."""
    missing = root / "none"
    for operation in (missing.read_bytes, missing.stat, missing.unlink, lambda: missing.open("rb")):
        with pytest.raises(FileNotFoundError):
            operation()
    with pytest.raises(FileNotFoundError):
        list(missing.iterdir())
    missing.unlink(missing_ok=True)


def test_a_tree_is_removed(root: AnyPath) -> None:
    """With all that is in it, and nothing beside it."""
    for name in ("tree", "tree2"):
        (root / name).mkdir()
        write_atomically(root / name / "file", b"x")
    remove_tree(root / "tree")
    assert [path.name for path in matches(root, "*")] == ["tree2"]


def test_files_are_read_ahead_in_their_order(root: AnyPath) -> None:
    """More than are fetched at once; one that is missing is an error where it is opened, and no other suffers."""
    names = [f"{n:02}" for n in range(40)]
    for name in names:
        if name != "07":
            write_atomically(root / name, name.encode())
    found = []
    for place in read_ahead(root / name for name in names):
        try:
            with place.open("rb") as file:
                found.append(file.read().decode())
        except FileNotFoundError:
            found.append("missing")
    assert found == [name if name != "07" else "missing" for name in names]


def test_a_url_is_a_path_that_is_no_local_one(bucket: RemotePath) -> None:
    """It prints as it was given, survives a pickle, and nothing local takes it for a path of its own."""
    path = bucket / "dir" / "name.txt"
    assert str(path).startswith(f"{bucket.base}/dir/name.txt?endpoint_override=127.0.0.1:")
    assert any_path(str(path)) == pickle.loads(pickle.dumps(path)) == path
    assert (path.name, path.stem, path.parent, path.with_name("x")) == (
        "name.txt",
        "name",
        bucket / "dir",
        bucket / "dir" / "x",
    )
    with pytest.raises(TypeError):
        os.fspath(path)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="not below"):
        below(path, Path("/dir"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("foo://bucket/x", "is no URL of a directory"),
        ("s3://me:secret@bucket/x", "give keys in the environment"),
        ("s3://", "is no URL of a directory"),
    ],
)
def test_urls_that_lead_nowhere(given: str, said: str) -> None:
    """Refused when they are given, and a password in one is not repeated."""
    with pytest.raises(UsageError, match=said) as error:
        any_path(given)
    assert "secret" not in str(error.value)


def test_a_bucket_that_is_not_there(s3: str, bucket: RemotePath) -> None:
    """A store in it cannot be made, and the message names it."""
    elsewhere = any_path(str(bucket).replace(bucket.base, "s3://not-there"))
    with pytest.raises(StoreError, match=r"cannot reach s3://not-there.*not.*found"):
        elsewhere.mkdir()


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PATIENCE_SECONDS", 0.0)


def test_an_object_store_that_is_away_is_no_fault_of_the_file(short_patience: None) -> None:
    """Not `FileNotFoundError`, which would make a file missing that is there, and not for ever."""
    path = any_path("s3://bucket/file?endpoint_override=127.0.0.1:9&scheme=http")
    with pytest.raises(StoreError, match="cannot reach s3://bucket: "):
        next(read_ahead([path])).open("rb")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("AWS Error ACCESS_DENIED during HeadObject operation: No response body.", PermissionError),
        ("AWS Error UNKNOWN (HTTP status 403): HTTP Response Code: 403", PermissionError),
        ("AWS Error NO_SUCH_KEY during CopyObject operation", FileNotFoundError),
        ("AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 7", StoreError),
        ("AWS Error NO_SUCH_BUCKET during CreateMultipartUpload operation", StoreError),
    ],
)
def test_errors_are_those_of_a_path(short_patience: None, bucket: RemotePath, said: str, expected: type) -> None:
    """What is forbidden or missing is the file's own; what goes wrong on the way is the store's."""

    def fail() -> None:
        raise OSError(said)

    with pytest.raises(expected):
        bucket.do(fail)


def test_only_what_goes_wrong_on_the_way_is_tried_again(bucket: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that comes back costs nothing; a bucket that is not there is said at once."""
    monkeypatch.setattr(remote, "PAUSE_SECONDS", 0.0)
    tries: list[str] = []

    def fail_with(said: str) -> str:
        tries.append(said)
        if len(tries) < 3:
            raise OSError(said)
        return "done"

    assert bucket.do(lambda: fail_with("AWS Error SLOW_DOWN")) == "done"
    tries.clear()
    with pytest.raises(StoreError):
        bucket.do(lambda: fail_with("AWS Error NO_SUCH_BUCKET"))
    assert len(tries) == 1


class FailsOnce(io.RawIOBase):
    """A file whose third piece arrives at the second attempt, after a first that moved on."""

    def __init__(self, content: bytes) -> None:
        self._file, self._n_reads = io.BytesIO(content), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        self._n_reads += 1
        count = self._file.readinto(memoryview(buffer)[:1000])
        if self._n_reads == 3:
            raise OSError("AWS Error NETWORK_CONNECTION during GetObject operation")
        return count


def test_no_byte_is_lost_where_a_read_is_tried_again(bucket: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that failed half way begins again where it began, and not where it broke off."""
    monkeypatch.setattr(remote, "PAUSE_SECONDS", 0.0)
    content = os.urandom(5000)
    with remote.OpenedObject(FailsOnce(content), bucket / "file") as file:
        assert file.read(10) + file.read(2500) + file.read() == content


def test_the_environment_names_the_server(s3: str, bucket: RemotePath) -> None:
    """AWS_ENDPOINT_URL and the keys, as every tool of S3 has them."""
    write_atomically(bucket / "file", b"there")
    environment = {**os.environ, **credentials(), "AWS_ENDPOINT_URL": s3}
    script = f"from vaeseg.paths import any_path; print(any_path('{bucket.base}/file').read_bytes().decode())"
    told = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout == "there\n"
