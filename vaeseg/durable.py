"""Files that are either whole or not there."""

from __future__ import annotations

import errno
import os
import re
import secrets

from vaeseg.errors import StoreError
from vaeseg.paths import AnyPath
from vaeseg.remote import RemotePath

HALF_WRITTEN = re.compile(r"\.part-[0-9a-f]{16}")
"""Names that `write_atomically` gives to files on their way; a kill leaves one."""


def write_file(path: AnyPath, data: bytes | memoryview, what: str, *, synced: bool = True) -> None:
    """`write_atomically` into a directory that is made where it is missing.

    Args:
        path: of the file.
        data: all of it.
        what: the file's name for people.
        synced: flush to disk.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, bytes(data), synced=synced)
    except OSError as error:
        raise StoreError(f"{what} cannot be written: {error.strerror}") from error


def write_atomically(path: AnyPath, data: bytes, *, synced: bool = True) -> None:
    """Write a file under another name beside it, then give it its own: a crash leaves the old file or the new one.

    An object store does so by itself.

    Args:
        path: its directory exists.
        data: all of it.
        synced: flush to disk before the file takes its name, so that a power cut does not leave an empty one.

    Raises:
        OSError: it cannot be written, or is there and no regular file; nothing stays behind.
        StoreError: the object store cannot be reached.
    """
    if isinstance(path, RemotePath):
        path.write_bytes(data)
        return
    if path.exists() and not path.is_file():  # a device would become a file
        raise OSError(errno.EINVAL, "it is a directory, device, pipe or socket, and no file", str(path))
    part = path.with_name(f".part-{secrets.token_hex(8)}")
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            if synced:
                os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def fsync_directories(directory: AnyPath, root: AnyPath) -> None:
    """Make the names in a directory, and in those above it up to `root`, survive a power cut; those of objects do.

    Raises:
        OSError: one cannot be opened or flushed.
    """
    if isinstance(directory, RemotePath):
        return
    for level in (directory, *directory.parents):
        descriptor = os.open(level, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if level == root:
            return
