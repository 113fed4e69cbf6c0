"""Reading plain and gzip files alike: bounded, and gzip checked by length and CRC to the end of its last member."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO

from vaeseg.paths import AnyPath

GZIP_MAGIC = b"\x1f\x8b"
GZIP_FORMAT = zlib.MAX_WBITS | 16
"""zlib then reads header and trailer itself, and raises where length or CRC are wrong."""
CHUNK_BYTES = 2**20
START_CHUNK_BYTES = 4096
"""A gzip header may hold a file name, so a few hundred bytes can hold none of the data."""
DAMAGED = (EOFError, zlib.error)
"""What a gzip file that cannot be decompressed to its end raises."""


def read_start(path: AnyPath, length: int) -> bytes:
    """The first bytes of a file, as `start_of` has them.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return start_of(file, length)


def start_of(file: BinaryIO, length: int) -> bytes:
    """The first bytes of an open file, of a gzip file after decompression; less where it ends or is damaged.

    Raises:
        OSError: the file cannot be read.
    """
    if not is_gzip(file):
        return file.read(length)
    start = b""
    try:
        for piece in _inflated(file, START_CHUNK_BYTES):
            start += piece[: length - len(start)]
            if len(start) == length:
                break
    except DAMAGED:
        pass
    return start


def read_whole(path: AnyPath, wanted: int, slack: int) -> tuple[bytearray, bool]:
    """The first bytes of a file's content, having read a gzip file to its end.

    Args:
        path: the file.
        wanted: bytes to return; less where there are fewer.
        slack: bytes that may follow in a gzip file; with more it is taken for a bomb.

    Returns:
        The bytes, and whether anything followed them.

    Raises:
        OSError: the file cannot be read.
        EOFError: a gzip file ends early.
        zlib.error: a gzip file is damaged.
        ValueError: a gzip file holds more than `wanted` + `slack` bytes.
    """
    content, total = bytearray(), 0
    with path.open("rb") as file:
        if not is_gzip(file):
            content += file.read(min(wanted, path.stat().st_size))
            return content, bool(file.read(1))
        for piece in _inflated(file, CHUNK_BYTES):
            total += len(piece)
            content += piece[: wanted - len(content)]
            if total > wanted + slack:
                raise ValueError(f"more than {wanted + slack} bytes after decompression")
        return content, total > wanted


def is_gzip(file: BinaryIO) -> bool:
    """Whether a file begins as gzip does; leaves it at its start."""
    magic = file.read(len(GZIP_MAGIC))
    file.seek(0)
    return magic == GZIP_MAGIC


def _inflated(file: BinaryIO, chunk: int) -> Iterator[bytes]:
    """Pieces of the content of all members; what follows the last one and is no member is left, as gzip(1) does."""
    rest = file.read(chunk)
    while rest.startswith(GZIP_MAGIC):
        inflater = zlib.decompressobj(GZIP_FORMAT)
        while not inflater.eof:
            if not rest:
                raise EOFError("the gzip stream ends early")
            yield inflater.decompress(rest, chunk)
            rest = inflater.unconsumed_tail or file.read(chunk)
        rest = (inflater.unused_data + rest).lstrip(b"\0")
