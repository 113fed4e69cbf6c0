"""The directory of a data set, given as a path or as a URL: the few things that are done there."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path

from vaeseg.durable import write_file
from vaeseg.errors import StoreError
from vaeseg.paths import AnyPath, any_path


@dataclass(frozen=True)
class Location:
    """A directory; names below are relative to it, with slashes. What cannot be done is a `StoreError`."""

    root: AnyPath

    @property
    def url(self) -> str:
        """Absolute path, or URL; opens the same place on another machine that sees it."""
        return str(self.root)

    def sizes(self, directory: str = "") -> dict[str, int]:
        """Name to bytes of what lies directly in a directory; -1 for directories, empty if there is no such.

        A link to nothing has 0 bytes.

        Raises:
            StoreError: it cannot be listed.
        """
        try:
            return {entry.name: _size(entry) for entry in self._entries(directory)}
        except OSError as error:
            raise StoreError(f"cannot list {self.url}: {error.strerror}") from error

    def read(self, name: str) -> bytes:
        """All of a file.

        Raises:
            FileNotFoundError: there is none.
            StoreError: it cannot be read.
        """
        try:
            return self._path(name).read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(name) from error
        except OSError as error:
            raise StoreError(f"cannot read {name} in {self.url}: {error.strerror}") from error

    def open(self, name: str) -> io.BufferedReader:
        """A file for random access.

        Raises:
            OSError: it cannot be opened.
        """
        return self._path(name).open("rb")

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a file whole: a reader sees the old one or the new one. Makes directories.

        Raises:
            StoreError: it cannot be written.
        """
        write_file(self._path(name), data, f"{name} of {self.url}")

    def make(self, directory: str) -> None:
        """Make a directory, and those above it, unless it is there.

        Raises:
            StoreError: it cannot be made or written.
        """
        path = self._path(directory)
        try:
            path.mkdir(parents=True, exist_ok=True)
            if isinstance(path, Path) and not os.access(path, os.W_OK | os.X_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as error:
            raise StoreError(f"cannot write to {self.url}: {error.strerror}") from error

    def delete(self, name: str) -> None:
        """Remove a file if it is there.

        Raises:
            StoreError: it cannot be removed.
        """
        try:
            self._path(name).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot remove {name} from {self.url}: {error.strerror}") from error

    def _entries(self, directory: str) -> list[AnyPath]:
        try:
            return [*self._path(directory).iterdir()]
        except FileNotFoundError:
            return []

    def _path(self, name: str) -> AnyPath:
        return self.root / name if name else self.root


def _size(entry: AnyPath) -> int:
    try:
        return -1 if entry.is_dir() else entry.stat().st_size
    except FileNotFoundError:  # it leads nowhere, or is gone since it was listed
        return 0


def locate(given: str) -> Location:
    """Where a path or URL leads; nothing is opened.

    Raises:
        UsageError: a URL that pyarrow does not understand, or one that holds a key.
    """
    return Location(any_path(given).absolute())
