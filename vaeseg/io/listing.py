"""Listing directories: what lies in each, without opening a file or following a link."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class FoundFile:
    """One directory entry that is not a directory, or a directory that cannot be listed."""

    path: str
    """Relative to the root; bytes that are no UTF-8 are surrogates."""
    size: int
    mtime_ns: int


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What lies in one directory."""

    directory: str
    """Relative to the root; empty for the root itself."""
    files: tuple[FoundFile, ...]
    """By name."""
    directories: tuple[str, ...]
    """Relative to the root, by name; those excluded are left out."""
    is_readable: bool = True
    """False where it cannot be listed: then its one file is the directory itself, as ``directory/.``."""


def walk(root: Path, start: str = "", exclude: Sequence[Path] = ()) -> Iterator[Listing]:
    """Every directory from `start` down, depth first; links are listed and not followed.

    Args:
        root: an absolute path.
        start: relative to it.
        exclude: absolute directories not to enter.

    Raises:
        OSError: the root itself cannot be listed.
    """
    pending = [start]
    while pending:
        listing = list_directory(root, pending.pop(), exclude)
        yield listing
        pending += listing.directories


def list_directory(root: Path, directory: str, exclude: Sequence[Path] = ()) -> Listing:
    """List one directory.

    Raises:
        OSError: it is the root, and cannot be listed.
    """
    here = root / directory
    try:
        with os.scandir(here) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
        return _listing(directory, entries, exclude)
    except OSError:
        if not directory:
            raise
        itself = tuple(replace(file, path=f"{directory}/.") for file in found_file(root, here))
        return Listing(directory=directory, files=itself, directories=(), is_readable=False)


def _listing(directory: str, entries: Sequence[os.DirEntry[str]], exclude: Sequence[Path]) -> Listing:
    prefix = f"{directory}/" if directory else ""
    files: list[FoundFile] = []
    directories: list[str] = []
    for entry in entries:
        if not entry.is_dir(follow_symlinks=False):
            with suppress(FileNotFoundError):
                files.append(_found(prefix + entry.name, entry.stat(follow_symlinks=False)))
        elif Path(entry.path) not in exclude:
            directories.append(prefix + entry.name)
    return Listing(directory=directory, files=tuple(files), directories=tuple(directories))


def found_file(root: Path, path: Path) -> Iterator[FoundFile]:
    """The entry, or nothing where it is gone since it was listed."""
    with suppress(FileNotFoundError):
        yield _found(str(path.relative_to(root)), path.lstat())


def _found(path: str, status: os.stat_result) -> FoundFile:
    return FoundFile(path=path, size=status.st_size, mtime_ns=status.st_mtime_ns)
