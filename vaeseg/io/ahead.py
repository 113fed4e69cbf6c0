"""Reading many files: one after the other where they lie here, many at once where each waits for an object store."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vaeseg.errors import StoreError
from vaeseg.paths import AnyPath
from vaeseg.remote import RemotePath

REQUESTS_AT_ONCE = 16
"""Of one reader: an object store answers many askers as fast as one."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class FetchedFile:
    """An object that is here already, or what went wrong."""

    data: bytes | OSError | StoreError

    def open(self, mode: str = "rb") -> io.BytesIO:
        """As `Path.open`.

        Raises:
            OSError: it could not be read.
            StoreError: the object store could not be reached.
        """
        if not isinstance(self.data, bytes):
            raise self.data
        return io.BytesIO(self.data)


def read_ahead(paths: Iterable[AnyPath]) -> Iterator[Path | FetchedFile]:
    """Files to open one after the other, in their order; objects are fetched while those before them are worked on."""
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as threads:
        coming: deque[Path | Future[FetchedFile]] = deque()
        for path in paths:
            coming.append(threads.submit(_fetched, path) if isinstance(path, RemotePath) else path)
            if len(coming) > REQUESTS_AT_ONCE:
                yield _arrived(coming.popleft())
        while coming:
            yield _arrived(coming.popleft())


def _fetched(path: RemotePath) -> FetchedFile:
    try:
        return FetchedFile(path.read_bytes())
    except (OSError, StoreError) as error:
        return FetchedFile(error)


def _arrived(file: Path | Future[FetchedFile]) -> Path | FetchedFile:
    return file if isinstance(file, Path) else file.result()


def map_files(function: Callable[[Item], Result], items: Sequence[Item], root: AnyPath) -> list[Result]:
    """`map` over what lies below a root, in order; many at once where each waits for an object store."""
    if not isinstance(root, RemotePath):
        return [function(item) for item in items]
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as threads:
        return list(threads.map(function, items))
