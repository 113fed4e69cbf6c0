"""What a store or an archive is given as: a path, or the URL of an object store; and what is done with either."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePath, PurePosixPath
from urllib.parse import unquote, urlsplit

from vaeseg.errors import UsageError
from vaeseg.remote import RemotePath, opened

AnyPath = Path | RemotePath
"""Local paths stay those of `pathlib`."""


def any_path(given: str | PurePath | RemotePath) -> AnyPath:
    """The place that a path or a URL names, of which ``file://`` is a path; nothing is asked of it.

    Raises:
        UsageError: a URL that pyarrow does not understand, or one that holds a key.
    """
    if isinstance(given, RemotePath):
        return given
    if "://" not in str(given):
        return Path(given)
    url = urlsplit(str(given))
    if url.scheme == "file":
        return Path(unquote(url.path))
    if not url.netloc:
        raise UsageError(f"{given} is no URL of a directory: it names no bucket")
    if "@" in url.netloc:
        raise UsageError(f"a URL of {url.scheme}:// holds a key: give keys in the environment, where nothing logs them")
    base, query = f"{url.scheme}://{url.netloc}", f"?{url.query}" * bool(url.query)
    from pyarrow import ArrowException

    try:
        opened(base + query)
    except (ArrowException, OSError, ValueError) as error:
        raise UsageError(f"{given} is no URL of a directory: {str(error).partition(chr(10))[0]}") from error
    return RemotePath(base, PurePosixPath(url.path.strip("/")), query)


def below(path: AnyPath, root: AnyPath) -> PurePath:
    """Path relative to a directory above it.

    Raises:
        ValueError: it is not below it.
    """
    return path.relative_to(root) if isinstance(path, RemotePath) else path.relative_to(str(root))


def matches(directory: AnyPath, pattern: str) -> list[AnyPath]:
    """`glob` in order."""
    found: list[AnyPath] = [*directory.glob(pattern)]
    return sorted(found, key=lambda path: path.parts)


def entries(directory: AnyPath, depth: int) -> Iterator[tuple[PurePath, bool]]:
    """What lies in a directory and some levels below it, in order; nothing of one that is missing or closed.

    An object store is asked for one listing.

    Args:
        directory: of which.
        depth: levels, 1 for the directory alone. A link to a directory elsewhere is one; a link back into it is none,
            since what it leads to is there already.

    Yields:
        Path below the directory, and whether it is a directory, which comes before what it holds.
    """
    if isinstance(directory, RemotePath):
        yield from directory.entries(depth)
    else:
        yield from _entries_here(directory, PurePath(), depth)


def _entries_here(root: Path, place: PurePath, depth: int) -> Iterator[tuple[PurePath, bool]]:
    try:
        with os.scandir(root / place) as found:
            names = sorted((entry.name, _is_directory(entry, root)) for entry in found)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    for name, is_directory in names:
        yield place / name, is_directory
        if is_directory and depth > 1:
            yield from _entries_here(root, place / name, depth - 1)


def _is_directory(entry: os.DirEntry[str], root: Path) -> bool:
    """Also a link to one outside; a link that leads to itself, or to where nobody may look, is none."""
    try:
        return entry.is_dir() and not (entry.is_symlink() and _leads_back(Path(entry.path), root))
    except OSError:
        return False


def _leads_back(link: Path, root: Path) -> bool:
    """Into the directory, or to one that holds it."""
    target, root = link.resolve(), root.resolve()
    return target.is_relative_to(root) or root.is_relative_to(target)


def move(source: AnyPath, target: AnyPath) -> None:
    """Give a file another name in the same store; the target is whole from the first moment.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if isinstance(source, RemotePath):
        source.replace(target)
    else:
        source.replace(str(target))


def printable(name: str) -> str:
    """A file name as reports have it: bytes that are no UTF-8, and what does not print, escaped as in ``\\udcce``."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in name)


def sha256_of(path: AnyPath) -> str:
    """SHA-256 of a file, 64 hex digits.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_tree(path: AnyPath) -> None:
    """Remove a directory with all that is in it.

    Raises:
        OSError: something in it cannot be removed.
    """
    if isinstance(path, RemotePath):
        path.remove_tree()
    else:
        shutil.rmtree(path)
