"""What a compressed frame says about itself, looked at before a decoder is trusted with it.

Decoders allocate what the codestream claims, and some accept a stream that stops half way. Only markers are read here:
the frame header (JPEG and JPEG-LS SOF, T.81 B.2.2; JPEG 2000 SIZ, T.800 A.5.1) and the end marker.
"""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from vaeseg.errors import ReadingError
from vaeseg.records import Reason, Warn

RLE_SYNTAX = "1.2.840.10008.1.2.5"
JPEG_LS_SYNTAXES = frozenset({"1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"})
JPEG2000_SYNTAXES = frozenset({f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203)})

START_OF_IMAGE = b"\xff\xd8"
END_OF_IMAGE = b"\xff\xd9"
"""EOI of JPEG and JPEG-LS, EOC of JPEG 2000: the same two bytes, which entropy-coded data never holds."""
PADDING_BYTES = 16
"""The end marker may be this far from the end of the frame: encoders pad to even length, and not only with zeros."""
START_OF_TILE_PART = b"\xff\x90"
CODING_STYLE = b"\xff\x52"
TRANSFORMATION_OFFSET = 13
"""From that marker to the wavelet: 0 is the irreversible one (T.800 table A.20)."""
START_OF_CODESTREAM = b"\xff\x4f\xff\x51"
JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "
JP2_HEADER_BYTES = 4096
START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
"""SOF0 to SOF15 less DHT, JPG and DAC; SOF55 of JPEG-LS."""
MAX_PRECISION = 16
"""Bits of a sample, of JPEG and JPEG-LS."""
START_OF_SCAN = 0xDA
HEADER_MARKERS = START_OF_FRAME | {0xC4, 0xCC, *range(0xDA, 0xF0), 0xF8, 0xFE}
"""Also DHT, DAC, SOS to EXP, APP0 to APP15, LSE of JPEG-LS, COM (T.81 table B.1)."""
FILL_BYTE = 0xFF
"""Any number of these may come before a marker (T.81 B.1.1.2)."""


@dataclass(frozen=True, kw_only=True)
class PixelFormat:
    """How one frame holds its samples."""

    shape: tuple[int, int]
    """(rows, columns)."""
    components: int
    precision: int
    """Bits of a sample."""
    is_signed: bool


def check_codestream(frame: bytes, syntax: str, expected: PixelFormat) -> frozenset[Warn]:
    """Check that a frame is whole and holds what the header says.

    Args:
        frame: one encoded frame, padding included.
        syntax: transfer syntax UID of an encapsulated syntax.
        expected: by the header, with BitsStored as precision.

    Returns:
        `Warn.CODESTREAM_DIFFERS` where the header's sign is taken against the codestream's; `Warn.LOSSY_COMPRESSION`
        where the codestream says that it is, whatever syntax and header say.

    Raises:
        ReadingError: ``truncated_pixel_data`` or ``decode_failed``.
    """
    if syntax == RLE_SYNTAX:  # its header holds offsets only, and the decoder insists on the exact length
        return frozenset()
    if END_OF_IMAGE not in frame.rstrip(b"\0")[-PADDING_BYTES:]:
        raise ReadingError(Reason.TRUNCATED_PIXEL_DATA, f"the frame of {len(frame)} bytes has no end marker")
    found = _jpeg2000_format(frame) if syntax in JPEG2000_SYNTAXES else jpeg_format(frame)
    if found is None:
        raise ReadingError(Reason.DECODE_FAILED, "the header of the codestream is missing or damaged")
    if (found.shape, found.components) != (expected.shape, expected.components):
        detail = f"the codestream holds (rows, columns) {found.shape} of {found.components} components"
        raise ReadingError(Reason.DECODE_FAILED, f"{detail}, expected {expected.shape} of {expected.components}")
    if syntax in JPEG2000_SYNTAXES:
        _check_tiles(frame)
    lossy = frozenset({Warn.LOSSY_COMPRESSION}) if _is_lossy(frame, syntax) else frozenset()
    return lossy | _compare_samples(found, expected, is_jpeg2000=syntax in JPEG2000_SYNTAXES)


def _is_lossy(frame: bytes, syntax: str) -> bool:
    """By the wavelet of JPEG 2000, and the difference that JPEG-LS allows (T.87 C.2.3); a DCT is told by the syntax."""
    if syntax in JPEG2000_SYNTAXES:
        style = next((at for at in _main_segments(frame) if frame.startswith(CODING_STYLE, at)), None)
        return style is not None and frame.startswith(b"\0", style + TRANSFORMATION_OFFSET)
    return syntax in JPEG_LS_SYNTAXES and _near(frame) not in (b"\0", b"")


def _near(frame: bytes) -> bytes:
    """The byte of it in the first scan of a JPEG-LS frame whose header is in order; none where that is damaged."""
    offset = 2
    while frame[offset + 1] != START_OF_SCAN:
        offset += 1 if frame[offset + 1] == FILL_BYTE else 2 + int.from_bytes(frame[offset + 2 : offset + 4], "big")
    place = offset + 5 + 2 * frame[offset + 4]
    return frame[place : place + 1]


def _compare_samples(found: PixelFormat, expected: PixelFormat, is_jpeg2000: bool) -> frozenset[Warn]:
    """JPEG and JPEG-LS know no sign: their samples are the bit patterns of whatever was encoded."""
    if found.precision < expected.precision and expected.is_signed and not found.is_signed:
        detail = f"unsigned samples of {found.precision} bits, expected signed ones of {expected.precision}"
        raise ReadingError(Reason.DECODE_FAILED, f"{detail}: which bit is the sign cannot be known")
    differs = is_jpeg2000 and found.is_signed != expected.is_signed
    return frozenset({Warn.CODESTREAM_DIFFERS}) if differs else frozenset()


def _jpeg2000_format(frame: bytes) -> PixelFormat | None:
    """By the SIZ marker; also inside a JP2 file, which some vendors encapsulate."""
    start = _codestream_start(frame)
    if frame[start : start + 4] != START_OF_CODESTREAM or len(frame) < start + 43:
        return None
    columns, rows, column_offset, row_offset = struct.unpack_from(">IIII", frame, start + 8)
    components, depth = struct.unpack_from(">HB", frame, start + 40)
    return PixelFormat(
        shape=(rows - row_offset, columns - column_offset),
        components=components,
        precision=(depth & 0x7F) + 1,
        is_signed=bool(depth & 0x80),
    )


def _codestream_start(frame: bytes) -> int:
    return max(0, frame.find(START_OF_CODESTREAM, 0, JP2_HEADER_BYTES)) if frame.startswith(JP2_SIGNATURE) else 0


def _check_tiles(frame: bytes) -> None:
    """Count the tiles: OpenJPEG refuses a tile that is cut, but fills in one that is not there at all."""
    start = _codestream_start(frame)
    right, bottom, _, _, width, height, left, top = struct.unpack_from(">8I", frame, start + 8)
    expected = math.ceil((right - left) / width) * math.ceil((bottom - top) / height)
    found = len(set(_tile_indices(frame)))
    if found < expected:
        raise ReadingError(Reason.TRUNCATED_PIXEL_DATA, f"the codestream holds {found} tiles, expected {expected}")


def _main_segments(frame: bytes) -> Iterator[int]:
    """Where each marker of the main header lies, that of the first tile-part last."""
    offset = _codestream_start(frame) + 2
    yield offset
    while frame[offset : offset + 2] not in (START_OF_TILE_PART, b""):
        offset += 2 + int.from_bytes(frame[offset + 2 : offset + 4], "big")
        yield offset


def _tile_indices(frame: bytes) -> Iterator[int]:
    """Of each tile-part, by way of the lengths that main header and tile-parts give (T.800 A.4.2)."""
    offset = deque(_main_segments(frame), maxlen=1).pop()  # of a frame that claims millions, none is kept
    while frame[offset : offset + 2] == START_OF_TILE_PART:
        index, length = struct.unpack_from(">HI", frame, offset + 4)
        yield index
        offset += length or len(frame)


def jpeg_format(frame: bytes) -> PixelFormat | None:
    """By the start-of-frame segment; None where what comes before the first scan is not as T.81 B.2 has it.

    libjpeg, as GDCM calls it, ends the process where a marker is not one, or where samples have more than 16 bits.
    """
    found, offset = None, 2 if frame.startswith(START_OF_IMAGE) else len(frame)
    while offset + 10 <= len(frame):
        start, marker, length = struct.unpack_from(">BBH", frame, offset)
        if start != FILL_BYTE or not (marker in HEADER_MARKERS or marker == FILL_BYTE):
            return None
        if marker == START_OF_SCAN:
            return found
        if marker in START_OF_FRAME:
            precision, rows, columns, components = struct.unpack_from(">BHHB", frame, offset + 4)
            found = PixelFormat(shape=(rows, columns), components=components, precision=precision, is_signed=False)
            if not 2 <= precision <= MAX_PRECISION:
                return None
        offset += 1 if marker == FILL_BYTE else 2 + length
    return None
