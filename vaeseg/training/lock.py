"""One training of a name at a time: a lock on a file beside its state, which goes when the process does."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from vaeseg.errors import StoreError, UsageError

LOCK_FILE = "lock"
"""Its name within `<store>/models/<name>.training/`."""
WAIT_SECONDS = 10.0
"""A process that was killed a moment ago may take as long to go."""
POLL_SECONDS = 0.1


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Be the only one who trains in a directory, which is made.

    A file system without locks has none here either.

    Raises:
        UsageError: somebody else does, on this node or on one that shares the file system.
        StoreError: the directory cannot be written.
    """
    with _opened(directory) as file:
        give_up = time.monotonic() + WAIT_SECONDS
        while not _taken(file):
            if time.monotonic() > give_up:
                raise UsageError(
                    f"{directory.stem} is being trained by another process: wait for it, end it, or take another name"
                )
            time.sleep(POLL_SECONDS)
        yield


def _opened(directory: Path) -> IO[bytes]:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return (directory / LOCK_FILE).open("ab")
    except OSError as error:
        raise StoreError(f"model {directory.stem} cannot be written: {error.strerror}") from error


def _taken(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks on this file system
        pass
    return True
