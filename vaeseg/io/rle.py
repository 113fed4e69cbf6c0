"""RLE as DICOM has it (PS3.5 annex G), its segments unpacked by Pillow: they are PackBits, which TIFF has too.

pydicom's own decoder is Python and takes several times as long; pylibjpeg-rle panics on damage. Only frames that are in
order are taken here, and pydicom judges all others.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt
from PIL import Image

HEADER = struct.Struct("<16L")
"""Number of segments, and where each begins."""
BOUND_LENGTH = 128
"""Of a run put behind a segment: it comes out whole, and last, only where the segment holds exactly what it should.
Pillow alone would take a segment that is too long."""
NO_OPERATION = b"\x80"
PADDING = b"\0"


def unpacked_frame(frame: bytes, n_pixels: int, bytes_allocated: int) -> npt.NDArray[np.uint8] | None:
    """The bytes of a greyscale frame, or None where it is not in order.

    Args:
        frame: encoded.
        n_pixels: rows times columns.
        bytes_allocated: of a pixel.

    Returns:
        (n_pixels, bytes_allocated) uint8, the least significant byte first.
    """
    if len(frame) < HEADER.size:
        return None
    n_segments, *offsets = HEADER.unpack_from(frame)
    if n_segments != bytes_allocated:
        return None
    ends = [*offsets[1:n_segments], len(frame)]
    pixels = np.empty((n_pixels, bytes_allocated), dtype=np.uint8)
    for n, (start, end) in enumerate(zip(offsets, ends, strict=False)):
        values = _unpacked(frame[start:end], n_pixels)
        if values is None:
            return None
        pixels[:, bytes_allocated - 1 - n] = values  # the first segment holds the most significant bytes
    return pixels


def _unpacked(segment: bytes, length: int) -> npt.NDArray[np.uint8] | None:
    """A segment, perhaps padded to an even number of bytes, that holds exactly so many."""
    values = _exactly(segment, length)
    return _exactly(segment[:-1], length) if values is None and segment.endswith(PADDING) else values


def _exactly(segment: bytes, length: int) -> npt.NDArray[np.uint8] | None:
    bound = _value_of_bound(segment)
    size = (length + BOUND_LENGTH, 1)  # one line, as runs may cross those of the image
    try:
        line = Image.frombytes("L", size, segment + bytes([257 - BOUND_LENGTH, bound]), "packbits", "L").tobytes()
    except ValueError:
        return None
    values = np.frombuffer(line, dtype=np.uint8)
    return values[:length] if (values[length:] == bound).all() else None


def _value_of_bound(segment: bytes) -> int:
    """Not that of the segment's last value, so that a segment that is too long cannot end as the bound does."""
    return 1 if segment.rstrip(NO_OPERATION).endswith(b"\0") else 0
