"""A file or directory of an object store such as S3, with the methods of `pathlib.Path` that vaeseg uses.

Directories are what pyarrow makes of common beginnings of keys. An object is seen whole or not at all, so that writing
one needs no second name. There is no `__fspath__`: what takes local files alone refuses these instead of making a
file of that name here.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import PurePath, PurePosixPath
from typing import Any, TypeVar

from vaeseg.errors import StoreError

READ_AHEAD_BYTES = 2**18
"""Fetched at once while a header is read in small pieces: one request holds all of most headers."""
PATIENCE_SECONDS = 30.0
"""What fails on the way to the object store is tried again for this long, beside pyarrow's own few seconds."""
PAUSE_SECONDS = 1.0
GONE = "NO_SUCH_KEY"
"""Of a copy; reading has an error of its own for it."""
DENIED = ("ACCESS_DENIED", "HTTP Response Code: 403")
ON_THE_WAY = ("NETWORK_CONNECTION", "SLOW_DOWN", "SERVICE_UNAVAILABLE", "INTERNAL_FAILURE", "REQUEST_TIMEOUT")
"""In messages of pyarrow, which has no errors of its own for them."""

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class RemoteStatus:
    """The part of `os.stat_result` that an object has."""

    st_size: int
    st_mtime_ns: int
    st_mode: int = stat.S_IFREG | 0o600

    @property
    def st_mtime(self) -> float:
        """Seconds since 1970."""
        return self.st_mtime_ns / 1e9


@dataclass(frozen=True, order=True)
class RemotePath:
    """A key below a bucket.

    Methods raise what those of `Path` raise where something is missing or forbidden. Anything else that goes wrong
    between here and the object store is no fault of the file: it is tried again, and then a `StoreError`.
    """

    base: str
    """Scheme and bucket, ``s3://bucket``."""
    key: PurePosixPath
    query: str = ""
    """Of the URL, with its question mark: pyarrow's options, such as ``?endpoint_override=...``."""

    def __str__(self) -> str:
        return self._url(self.base if self.key == PurePosixPath() else f"{self.base}/{self.key}")

    def __truediv__(self, other: str | PurePath) -> RemotePath:
        return RemotePath(self.base, self.key / other, self.query)

    @property
    def name(self) -> str:
        """Last part of the key."""
        return self.key.name

    @property
    def stem(self) -> str:
        """Name without its suffix."""
        return self.key.stem

    @property
    def parent(self) -> RemotePath:
        """The directory above; the bucket is its own."""
        return RemotePath(self.base, self.key.parent, self.query)

    @property
    def parts(self) -> tuple[str, ...]:
        """Of the key."""
        return self.key.parts

    def with_name(self, name: str) -> RemotePath:
        """Beside it."""
        return self.parent / name

    def relative_to(self, other: object) -> PurePosixPath:
        """Key below another one.

        Raises:
            ValueError: it is not below it.
        """
        if not isinstance(other, RemotePath) or (self.base, self.query) != (other.base, other.query):
            raise ValueError(f"{self} is not below {other}")
        return self.key.relative_to(other.key)

    def absolute(self) -> RemotePath:
        """Itself."""
        return self

    def resolve(self, strict: bool = False) -> RemotePath:
        """Itself: an object store has no links.

        Raises:
            FileNotFoundError: `strict`, and there is nothing.
        """
        if strict and not self.exists():
            raise self._missing()
        return self

    def exists(self) -> bool:
        """Whether there is an object, or one below it."""
        return bool(self._info().type.name != "NotFound")

    def is_file(self) -> bool:
        """Whether there is an object."""
        return bool(self._info().is_file)

    def is_dir(self) -> bool:
        """Whether objects lie below it, or a directory was made."""
        return bool(self._info().type.name == "Directory")

    def stat(self) -> RemoteStatus:
        """Size and time of an object.

        Raises:
            FileNotFoundError: there is none.
        """
        info = self._info()
        if not info.is_file:
            raise self._missing()
        return RemoteStatus(st_size=info.size, st_mtime_ns=info.mtime_ns)

    def lstat(self) -> RemoteStatus:
        """As `stat`."""
        return self.stat()

    def iterdir(self) -> Iterator[RemotePath]:
        """What lies directly in a directory, in no order.

        Raises:
            FileNotFoundError: there is no such directory.
        """
        for info in self.listed():
            yield self / info.base_name

    def listed(self, recursive: bool = False) -> list[Any]:
        """`pyarrow.fs.FileInfo` of what lies in a directory.

        Raises:
            FileNotFoundError: there is no such directory.
        """
        from pyarrow.fs import FileSelector

        selector = FileSelector(self._path, recursive=recursive)
        found: list[Any] = self.do(lambda: self._filesystem.get_file_info(selector))
        return found

    def is_entry(self, info: Any) -> bool:
        """Whether what `listed` found has a name in this directory.

        An object has none whose key goes on with an empty part or with ``.``: it stands there as the directory itself.
        """
        return bool(self / info.base_name != self and info.path.rstrip("/") != self._path)

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """Matches of a pattern of one or more parts, without ``**``; none where there is no such directory."""
        wanted = PurePosixPath(pattern).parts
        try:
            infos = self.listed(recursive=len(wanted) > 1)
        except FileNotFoundError:
            return
        for info in infos:
            below = PurePosixPath(info.path).relative_to(self._path)
            if len(below.parts) == len(wanted) and all(map(fnmatchcase, below.parts, wanted)):
                yield self / below

    def entries(self, depth: int) -> list[tuple[PurePosixPath, bool]]:
        """`paths.entries`, by one listing."""
        try:
            infos = self.listed(recursive=depth > 1)
        except FileNotFoundError:
            return []
        found = ((PurePosixPath(info.path).relative_to(self._path), not info.is_file) for info in infos)
        return sorted((one for one in found if len(one[0].parts) <= depth), key=lambda one: one[0].parts)

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """An object to read, from anywhere in it.

        Raises:
            FileNotFoundError: there is none.
            PermissionError: it may not be read.
        """
        if mode != "rb":
            raise ValueError(f"objects are opened to be read, not with mode {mode}")
        return OpenedObject(self.do(lambda: self._filesystem.open_input_file(self._path)), self)

    def read_bytes(self) -> bytes:
        """All of an object."""

        def read() -> bytes:
            with self._filesystem.open_input_stream(self._path, compression=None) as file:
                return bytes(file.read())

        return self.do(read)

    def read_text(self, encoding: str) -> str:
        """All of an object, decoded."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, data: bytes) -> int:
        """Put an object in place of what may be there."""

        def write() -> int:
            with self._filesystem.open_output_stream(self._path, compression=None) as file:
                return int(file.write(data))

        return self.do(write)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove an object."""
        try:
            self.do(lambda: self._filesystem.delete_file(self._path))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def replace(self, target: object) -> None:
        """Copy an object to another key, then remove it: the target is there whole before this one goes."""
        assert isinstance(target, RemotePath)
        self.do(lambda: self._filesystem.move(self._path, target._path))

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Make a directory, and those above it, whether or not it is there."""
        self.do(lambda: self._filesystem.create_dir(self._path, recursive=True))

    def rmdir(self) -> None:
        """Remove a directory that holds nothing; nobody else may write into it meanwhile.

        Raises:
            OSError: it holds something.
        """
        if self.listed():
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(self))
        self.remove_tree()

    def remove_tree(self) -> None:
        """Remove a directory with all that is in it."""
        self.do(lambda: self._filesystem.delete_dir(self._path))

    @property
    def _filesystem(self) -> Any:
        return opened(self._url(self.base))[0]

    @property
    def _path(self) -> str:
        root = opened(self._url(self.base))[1]
        return root if self.key == PurePosixPath() else f"{root}/{self.key}"

    def _url(self, url: str) -> str:
        return url + self.query

    def _info(self) -> Any:
        return self.do(lambda: self._filesystem.get_file_info(self._path))

    def _missing(self) -> FileNotFoundError:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))

    def do(self, operation: Callable[[], Result]) -> Result:
        """Errors of pyarrow become what `Path` would raise; see the class."""
        from pyarrow import ArrowException

        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return operation()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
                raise self._missing() from error
            except (OSError, ArrowException) as error:
                text = " ".join(str(error).split())
                if GONE in text:
                    raise self._missing() from error
                if any(word in text for word in DENIED):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self)) from error
                if time.monotonic() > until or not any(word in text for word in ON_THE_WAY):
                    raise StoreError(f"cannot reach {self.base}: {text}") from error
            time.sleep(PAUSE_SECONDS)


class OpenedObject(io.BufferedReader):
    """An open object, read ahead; what fails while it is read fails as it does when it is opened."""

    def __init__(self, file: Any, path: RemotePath) -> None:
        super().__init__(file, READ_AHEAD_BYTES)
        self._at = path

    def read(self, size: int | None = -1, /) -> bytes:
        """As `io.BufferedReader`."""
        return self._again_from_here(lambda: super(OpenedObject, self).read(size))

    def readinto(self, buffer: Any, /) -> int:
        """As `io.BufferedReader`."""
        return self._again_from_here(lambda: super(OpenedObject, self).readinto(buffer))

    def _again_from_here(self, read: Callable[[], Result]) -> Result:
        """A read that failed half way may have moved on."""
        start = self.tell()

        def once() -> Result:
            self.seek(start)
            return read()

        return self._at.do(once)


@cache
def opened(url: str) -> tuple[Any, str]:
    """File system and bucket; one of each in a process, for its connections are kept."""
    from pyarrow.fs import FileSystem

    if url.startswith("s3://"):  # a small object is then put by one request instead of three
        url += f"{'&' if '?' in url else '?'}allow_delayed_open=true"
    filesystem, root = FileSystem.from_uri(url)
    return filesystem, root
