"""What a compressed frame says about itself, looked at before a decoder is trusted with it.

Decoders allocate what the codestream claims, and some accept a stream that stops half way. Only markers are read here:
the frame size (JPEG SOF, T.81 B.2.2; JPEG 2000 SIZ, T.800 A.5.1) and the end marker.
"""

from __future__ import annotations

import struct

from vaeseg.errors import ReadingError
from vaeseg.records import Reason

RLE_SYNTAX = "1.2.840.10008.1.2.5"
JPEG2000_SYNTAXES = frozenset({f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203)})

START_OF_IMAGE = b"\xff\xd8"
END_OF_IMAGE = b"\xff\xd9"
"""EOI of JPEG and JPEG-LS, EOC of JPEG 2000: the same two bytes."""
START_OF_CODESTREAM = b"\xff\x4f\xff\x51"
JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "
START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
"""SOF0 to SOF15 less DHT, JPG and DAC; SOF55 of JPEG-LS."""


def check_codestream(frame: bytes, syntax: str, shape: tuple[int, int]) -> None:
    """Check that a frame is whole and is of the size that the header says.

    Args:
        frame: one encoded frame, padding included.
        syntax: transfer syntax UID of an encapsulated syntax.
        shape: (rows, columns) by the header.

    Raises:
        ReadingError: ``truncated_pixel_data`` or ``decode_failed``.
    """
    if syntax == RLE_SYNTAX:
        return
    if not frame.rstrip(b"\0").endswith(END_OF_IMAGE):
        raise ReadingError(Reason.TRUNCATED_PIXEL_DATA, f"the frame of {len(frame)} bytes has no end marker")
    found = _jpeg2000_size(frame) if syntax in JPEG2000_SYNTAXES else _jpeg_size(frame)
    if found != shape:
        raise ReadingError(Reason.DECODE_FAILED, f"the codestream holds (rows, columns) {found}, expected {shape}")


def _jpeg2000_size(frame: bytes) -> tuple[int, int] | None:
    """(rows, columns) by the SIZ marker; also inside a JP2 file, which some vendors encapsulate."""
    start = frame.find(START_OF_CODESTREAM, 0, 4096) if frame.startswith(JP2_SIGNATURE) else 0
    if start < 0 or frame[start : start + 4] != START_OF_CODESTREAM or len(frame) < start + 24:
        return None
    columns, rows, column_offset, row_offset = struct.unpack_from(">IIII", frame, start + 8)
    return rows - row_offset, columns - column_offset


def _jpeg_size(frame: bytes) -> tuple[int, int] | None:
    """(rows, columns) by the first start-of-frame segment."""
    offset = 2 if frame.startswith(START_OF_IMAGE) else len(frame)
    while offset + 9 <= len(frame):
        marker, length = frame[offset + 1], struct.unpack_from(">H", frame, offset + 2)[0]
        if marker in START_OF_FRAME:
            rows, columns = struct.unpack_from(">HH", frame, offset + 5)
            return rows, columns
        offset += 2 + length
    return None
