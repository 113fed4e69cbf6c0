"""Listing directories: what lies in each, without opening a file or following a link."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vaeseg.errors import StoreError
from vaeseg.paths import AnyPath, below
from vaeseg.remote import RemotePath, RemoteStatus

LATEST_NS = 2**63 - 1
"""In the year 2262; a time of change beyond it, or as far before 1970, is taken for it: databases hold 64 bits."""


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


def walk(root: AnyPath, start: str = "", exclude: Sequence[AnyPath] = ()) -> Iterator[Listing]:
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


def list_directory(root: AnyPath, directory: str, exclude: Sequence[AnyPath] = ()) -> Listing:
    """List one directory.

    Raises:
        OSError: it is the root, and cannot be listed.
    """
    if isinstance(root, RemotePath):
        return _list_objects(root, directory, exclude)
    here = root / directory
    try:
        with os.scandir(here) as listing:
            # A share may tell an entry twice while others come and go.
            by_name = {entry.name: entry for entry in listing}
            entries = [by_name[name] for name in sorted(by_name)]
        return _listing(directory, entries, exclude)
    except OSError as error:
        return _closed(directory, error)


def _list_objects(root: RemotePath, directory: str, exclude: Sequence[AnyPath]) -> Listing:
    """As `list_directory`, in an object store."""
    here = root / directory
    prefix = f"{directory}/" if directory else ""
    try:
        infos = sorted(here.listed(), key=lambda info: info.base_name)
    except OSError as error:
        return _closed(directory, error)
    named = [info for info in infos if here.is_entry(info)]
    nameless = [_itself(directory)] if len(named) < len(infos) else []
    files = [
        FoundFile(path=prefix + info.base_name, size=info.size, mtime_ns=info.mtime_ns)
        for info in named
        if info.is_file
    ]
    directories = [prefix + i.base_name for i in named if not i.is_file and here / i.base_name not in exclude]
    return Listing(directory=directory, files=(*nameless, *files), directories=tuple(directories))


def _closed(directory: str, error: OSError) -> Listing:
    """Of a directory that cannot be listed, or is gone since the one above was listed; the root's error is raised."""
    if not directory:
        raise error
    itself = () if isinstance(error, FileNotFoundError) else (_itself(directory),)
    return Listing(directory=directory, files=itself, directories=(), is_readable=False)


def _itself(directory: str) -> FoundFile:
    """For what cannot be listed in it."""
    return FoundFile(path=f"{directory}/.", size=0, mtime_ns=0)


def _listing(directory: str, entries: Sequence[os.DirEntry[str]], exclude: Sequence[AnyPath]) -> Listing:
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


def found_file(root: AnyPath, path: AnyPath) -> Iterator[FoundFile]:
    """The entry, or nothing where it is gone since it was listed."""
    with suppress(FileNotFoundError):
        yield _found(str(below(path, root)), path.lstat())


def _found(path: str, status: os.stat_result | RemoteStatus) -> FoundFile:
    mtime_ns = max(-LATEST_NS, min(status.st_mtime_ns, LATEST_NS))
    return FoundFile(path=path, size=status.st_size, mtime_ns=mtime_ns)


def is_there(root: AnyPath) -> bool:
    """Whether an archive can be listed and holds anything; a share that dropped out often leaves an empty directory."""
    try:
        if isinstance(root, RemotePath):
            return any(True for _ in root.listed())
        with os.scandir(root) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def count_there(root: AnyPath, paths: Collection[str]) -> int | None:
    """How many of some files are in an archive now; None where it cannot be listed or is empty, as `is_there`.

    Args:
        root: an absolute path.
        paths: relative to it; those below a directory that is there and cannot be listed count.
    """
    directories = {path.rpartition("/")[0] for path in paths}
    try:
        if not is_there(root):
            return None
        listings = [list_directory(root, directory) for directory in sorted(directories)]
    except (OSError, StoreError):  # a root that dropped out, an object store that cannot be reached
        return None
    found = {file.path for listing in listings for file in listing.files}
    return sum(path in found or f"{path.rpartition('/')[0]}/." in found for path in paths)
