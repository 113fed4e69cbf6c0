"""The outside of a DICOM file (PS3.10): its prefix, and the bound on what a deflated data set may grow to."""

from __future__ import annotations

import zlib
from typing import BinaryIO

from pydicom.filereader import read_dataset

from vaeseg.config import ReadingConfig
from vaeseg.errors import ReadingError
from vaeseg.io.elements import text
from vaeseg.io.headers import DEFLATED_SYNTAX
from vaeseg.records import Reason

PREAMBLE_BYTES = 132
"""128 of anything, then DICM."""
INFLATE_CHUNK = 2**20


def is_dicom(start: bytes) -> bool:
    """Whether a file that begins so has preamble and prefix of PS3.10."""
    return start[PREAMBLE_BYTES - 4 : PREAMBLE_BYTES] == b"DICM"


def starts_with_preamble(file: BinaryIO) -> bool:
    """Whether the DICM prefix is where PS3.10 wants it; leaves the file at its start."""
    file.seek(0)
    start = file.read(PREAMBLE_BYTES)
    file.seek(0)
    return is_dicom(start)


def check_inflated_size(file: BinaryIO, config: ReadingConfig) -> None:
    """Refuse a deflated data set that inflates beyond all bounds, before pydicom inflates it in one go."""
    limit = config.max_header_bytes
    if _is_deflated(file) and _inflates_beyond(file, limit):
        raise ReadingError(Reason.TOO_LARGE, f"the deflated data set holds more than {limit} bytes")
    file.seek(0)


def _is_deflated(file: BinaryIO) -> bool:
    """By the file meta; leaves the file where the data set begins."""
    if not starts_with_preamble(file):
        return False
    file.seek(PREAMBLE_BYTES)
    meta = read_dataset(
        file, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, _vr, _n: tag >> 16 != 2
    )
    return text(meta, "TransferSyntaxUID") == DEFLATED_SYNTAX


def _inflates_beyond(file: BinaryIO, limit: int) -> bool:
    inflater, inflated = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while chunk := inflater.unconsumed_tail or file.read(INFLATE_CHUNK):
        inflated += len(inflater.decompress(chunk, INFLATE_CHUNK))
        if inflated > limit:
            return True
    return False
