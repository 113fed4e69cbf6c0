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
"""Of what is put behind a segment: it comes out whole, and last, only where the segment holds exactly what it should.
Pillow alone would take a segment that is too long."""
BOUNDS = (b"\x81\0", b"\x81\1")
"""A run of 128 zeros or ones."""
BOUND_OF_PADDED = b"\x81\1\0\2\x84\1"
"""A run of 128 ones, and then never another one. Where a padding byte of 0 before it is taken for the beginning of a
literal, what comes out is `BEHIND_PADDING`."""
BEHIND_PADDING = np.frombuffer(b"\x81\0\2" + 125 * b"\1", dtype=np.uint8)
NO_OPERATION = b"\x80"


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
    size = (length + BOUND_LENGTH, 1)  # one line, as runs may cross those of the image
    bound, is_one = _bound(segment)
    try:
        line = Image.frombytes("L", size, segment + bound, "packbits", "L").tobytes()
    except ValueError:
        return None
    values = np.frombuffer(line, dtype=np.uint8)
    behind = values[length:]
    is_whole = (behind == is_one).all() or (bound is BOUND_OF_PADDED and (behind == BEHIND_PADDING).all())
    return values[:length] if is_whole else None


def _bound(segment: bytes) -> tuple[bytes, bool]:
    """Encoded, and whether it is of ones.

    Not of the segment's last value, so that a segment that is too long cannot end as the bound does.
    """
    if segment.endswith(b"\0"):
        return BOUND_OF_PADDED, True
    is_one = segment.rstrip(NO_OPERATION).endswith(b"\0")
    return BOUNDS[is_one], is_one
