"""A directory in the store for as long as a check takes: what one machine writes there, another must find."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from vaeseg.durable import write_atomically
from vaeseg.errors import StoreError
from vaeseg.io.health import PROBE
from vaeseg.paths import AnyPath, remove_tree

_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, kw_only=True)
class StoreProbe:
    """The directory, as one machine sees it.

    A file is asked for by a name that nobody asked for before, and the directory is never listed: a network file system
    may remember for half a minute what was not there.
    """

    root: AnyPath
    """Of the store."""
    id: str
    """16 hexadecimal digits."""

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise ValueError(f"{self.id!r} is no id of a check: 16 hexadecimal digits")

    @property
    def directory(self) -> AnyPath:
        """Where it is, if the store is the same."""
        return self.root / f"{PROBE}{self.id}"

    def write(self, name: str, text: str) -> None:
        """Leave something for another machine.

        Raises:
            StoreError: it cannot be written.
        """
        try:
            write_atomically(self.directory / name, text.encode())
        except OSError as error:
            raise StoreError(f"cannot write the store {self.root}: {error.strerror}") from error

    def read(self, name: str) -> str | None:
        """What another machine left; None where it cannot be found, so that the store is another."""
        try:
            return (self.directory / name).read_text(encoding="utf-8")
        except (OSError, StoreError, UnicodeDecodeError):
            return None


@contextmanager
def store_probe(root: AnyPath) -> Iterator[StoreProbe]:
    """Make one, and remove it with all that is in it.

    Raises:
        StoreError: the store cannot be written.
    """
    probe = StoreProbe(root=root, id=secrets.token_hex(8))
    try:
        probe.directory.mkdir()
    except OSError as error:
        raise StoreError(f"cannot write the store {root}: {error.strerror}") from error
    try:
        yield probe
    finally:
        with suppress(OSError, StoreError):
            remove_tree(probe.directory)
