"""A directory given as a path or as a URL that pyarrow understands: the few things that a data set needs of one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from vaeseg.durable import write_atomically
from vaeseg.errors import StoreError, UsageError


@dataclass(frozen=True, kw_only=True, eq=False)
class Location:
    """A directory; names below are relative to it, with slashes."""

    url: str
    """Absolute path, or URL; opens the same place on another machine that sees it."""
    filesystem: Any
    root: str
    """Within the file system."""

    @property
    def local(self) -> Path | None:
        """The directory where it lies on this machine's file system; else None."""
        return Path(self.root) if isinstance(self.filesystem, fs.LocalFileSystem) else None

    def sizes(self, directory: str = "") -> dict[str, int]:
        """Name to bytes of what lies directly in a directory; -1 for directories, empty if there is no such.

        Raises:
            StoreError: it cannot be listed.
        """
        selector = fs.FileSelector(self._path(directory), allow_not_found=True)
        try:
            found = self.filesystem.get_file_info(selector)
        except OSError as error:
            raise StoreError(f"cannot list {self.url}: {_cause(error)}") from error
        return {info.base_name: info.size if info.type == fs.FileType.File else -1 for info in found}

    def read(self, name: str) -> bytes:
        """All of a file.

        Raises:
            FileNotFoundError: there is none.
            StoreError: it cannot be read.
        """
        try:
            with self.filesystem.open_input_stream(self._path(name), compression=None) as file:
                return bytes(file.read())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(name) from error
        except OSError as error:
            raise StoreError(f"cannot read {name} in {self.url}: {_cause(error)}") from error

    def open(self, name: str) -> Any:
        """A file for random access, as pyarrow reads it.

        Raises:
            OSError: it cannot be opened.
        """
        return self.filesystem.open_input_file(self._path(name))

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a file whole: a reader sees the old one or the new one. Makes directories.

        Object stores show an object only when all of it has arrived; on a file system it is renamed into place.

        Raises:
            StoreError: it cannot be written.
        """
        path = self._path(name)
        try:
            self.filesystem.create_dir(path.rpartition("/")[0], recursive=True)
            if self.local is not None:
                write_atomically(Path(path), bytes(data))
                return
            with self.filesystem.open_output_stream(path, compression=None) as file:
                file.write(data)
        except OSError as error:
            raise StoreError(f"cannot write {name} to {self.url}: {_cause(error)}") from error

    def make(self, directory: str) -> None:
        """Make a directory, and those above it, unless it is there.

        Raises:
            StoreError: it cannot be made or written.
        """
        try:
            self.filesystem.create_dir(self._path(directory), recursive=True)
            if self.local is not None and not os.access(self._path(directory), os.W_OK | os.X_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as error:
            raise StoreError(f"cannot write to {self.url}: {_cause(error)}") from error

    def delete(self, name: str) -> None:
        """Remove a file if it is there.

        Raises:
            StoreError: it cannot be removed.
        """
        try:
            self.filesystem.delete_file(self._path(name))
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"cannot remove {name} from {self.url}: {_cause(error)}") from error

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root


def locate(given: str) -> Location:
    """Where a path or URL leads; nothing is opened.

    Raises:
        UsageError: a URL that pyarrow does not understand.
    """
    if "://" not in given:
        root = str(Path(given).absolute())
        return Location(url=root, filesystem=fs.LocalFileSystem(), root=root)
    try:
        filesystem, root = fs.FileSystem.from_uri(given)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UsageError(f"{given} is no URL of a directory: {_cause(error)}") from error
    return Location(url=given, filesystem=filesystem, root=root.rstrip("/"))


def _cause(error: Exception) -> str:
    """The system's own words where there are some, else the first line of pyarrow's."""
    return getattr(error, "strerror", None) or str(error).partition("\n")[0]
