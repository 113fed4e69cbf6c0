"""JPEG as DICOM has it (PS3.5 8.2.1), decoded by GDCM into memory of ours.

Its Python binding hands an image over as text, which pydicom encodes back: half of all the time. Only the region of a
file goes into a buffer, so that a frame is put into a file of its own, in memory. GDCM leaves that buffer as it was,
without a word, where it cannot decode; so only frames in order are taken here, and pydicom judges all others.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from vaeseg.io.codestream import MAX_PRECISION, PixelFormat, jpeg_format
from vaeseg.io.libjpeg import said_on_standard_error

CT_IMAGE = b"1.2.840.10008.5.1.4.1.1.2"
UNTOUCHED = 0xFF
"""What the buffer is filled with before."""
PREAMBLE = bytes(128) + b"DICM"
ITEM, ITEM_END = struct.pack("<HH", 0xFFFE, 0xE000), struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
PIXEL_DATA = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF) + ITEM + bytes(4)
"""Encapsulated, with an empty table of offsets (PS3.5 A.4)."""


def jpeg_frame(frame: bytes, syntax: str, expected: PixelFormat) -> npt.NDArray[np.uint8] | None:
    """The bytes of a greyscale frame, or None where it is not in order.

    Args:
        frame: encoded.
        syntax: its transfer syntax UID.
        expected: by the header, with BitsStored as precision.

    Returns:
        (rows, columns, bytes of a pixel) uint8, the least significant byte first: one byte for up to eight bits of the
        codestream, else two.
    """
    found = jpeg_format(frame)
    if found is None or (found.shape, found.components) != (expected.shape, 1) or expected.precision > MAX_PRECISION:
        return None
    rows, columns = expected.shape
    pixels = np.full((rows, columns, 1 + (found.precision > 8)), UNTOUCHED, dtype=np.uint8)
    try:
        with said_on_standard_error() as said, _file_in_memory(_file_of(frame, syntax, expected)) as path:
            is_read = _read_region(path, pixels)
    except (AttributeError, OSError):  # a system without such files
        return None
    is_whole = is_read and not said and (pixels[-1] != UNTOUCHED).any()
    return pixels if is_whole else None


def _read_region(path: str, pixels: npt.NDArray[np.uint8]) -> bool:
    """Fill (rows, columns, bytes) with the whole image of a file; whether GDCM says that it did.

    It does not where the header has another number of bytes than the codestream.
    """
    import gdcm  # where it is missing, only these syntaxes are

    reader = gdcm.ImageRegionReader()
    reader.SetFileName(path)
    if not reader.ReadInformation():
        return False
    rows, columns, _ = pixels.shape
    region = gdcm.BoxRegion()
    region.SetDomain(0, columns - 1, 0, rows - 1, 0, 0)
    reader.SetRegion(region)
    return reader.ComputeBufferLength() == pixels.nbytes and bool(reader.ReadIntoBuffer(pixels.data.cast("B")))


@contextmanager
def _file_in_memory(content: bytes) -> Iterator[str]:
    """A path that this process alone can open, to a file that lies on no disk."""
    descriptor = os.memfd_create("vaeseg-frame")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _file_of(frame: bytes, syntax: str, pixels: PixelFormat) -> bytes:
    """The least that GDCM takes for a CT image (PS3.10 7, PS3.3 C.7.6.3), explicit little endian."""
    allocated = 8 if pixels.precision <= 8 else 16
    meta = _element(0x0002, 0x0002, b"UI", CT_IMAGE) + _element(0x0002, 0x0010, b"UI", syntax.encode())
    image = {
        0x0002: 1,
        0x0010: pixels.shape[0],
        0x0011: pixels.shape[1],
        0x0100: allocated,
        0x0101: pixels.precision,
        0x0102: pixels.precision - 1,
        0x0103: int(pixels.is_signed),
    }
    numbers = [_element(0x0028, number, b"US", struct.pack("<H", value)) for number, value in image.items()]
    numbers.insert(1, _element(0x0028, 0x0004, b"CS", b"MONOCHROME2"))
    return b"".join(
        [
            PREAMBLE, _element(0x0002, 0x0000, b"UL", struct.pack("<I", len(meta))), meta,
            _element(0x0008, 0x0016, b"UI", CT_IMAGE), *numbers,
            PIXEL_DATA, ITEM, struct.pack("<I", len(frame) + len(frame) % 2), _even(frame), ITEM_END,
        ]
    )  # fmt: skip


def _element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    value = _even(value)
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value


def _even(value: bytes) -> bytes:
    return value + bytes(len(value) % 2)
