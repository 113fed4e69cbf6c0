"""Hearing what libjpeg, inside GDCM, says about damaged JPEG data.

GDCM returns a full frame and no error when entropy-coded data ends early or makes no sense, and libjpeg fills in what
is missing. The one trace is a line on the process's standard error.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from vaeseg.errors import ReadingError
from vaeseg.records import Reason

COMPLAINTS = (b"Corrupt JPEG data", b"Premature end of JPEG", b"Improper call to JPEG")
STANDARD_ERROR = 2
_LOCK = threading.Lock()
"""The descriptor belongs to the whole process."""


@contextmanager
def complaints_raised() -> Iterator[None]:
    """Turn libjpeg's complaints about the data into an error.

    What GDCM wrote besides is dropped. Decoding is serialised within a process.

    Raises:
        ReadingError: ``decode_failed``.
    """
    with said_on_standard_error() as said:
        yield
    if any(complaint in said for complaint in COMPLAINTS):
        raise ReadingError(Reason.DECODE_FAILED, "the JPEG data is damaged or ends early")


@contextmanager
def said_on_standard_error() -> Iterator[bytearray]:
    """Divert standard error; what was written there is in what is given, once the block has ended without an error."""
    said = bytearray()
    with _LOCK, tempfile.TemporaryFile() as capture:
        kept = _duplicate(STANDARD_ERROR)
        os.dup2(capture.fileno(), STANDARD_ERROR)
        try:
            yield said
        finally:
            _restore(kept)
        capture.seek(0)
        said += capture.read()


def _duplicate(descriptor: int) -> int | None:
    """None in a service that closed its standard error."""
    try:
        return os.dup(descriptor)
    except OSError:
        return None


def _restore(kept: int | None) -> None:
    if kept is None:
        os.close(STANDARD_ERROR)
        return
    os.dup2(kept, STANDARD_ERROR)
    os.close(kept)
