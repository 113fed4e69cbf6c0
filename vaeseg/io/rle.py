"""RLE as DICOM has it (PS3.5 annex G), its segments unpacked by pylibjpeg-rle.

pydicom's own decoder is Python and takes many times as long. pylibjpeg-rle's decoder of whole frames panics on damage,
that of a segment does not. Only frames that are in order are taken here, and pydicom judges all others.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

HEADER = struct.Struct("<16L")
"""Number of segments, and where each begins."""
LONGEST_PER_BYTE, PADDING = 2, 1
"""Of a segment in order: every byte a literal of its own, and padded to an even number. A longer one could unpack to 64
times its length."""


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
    from rle.rle import decode_segment  # where it is missing, only this syntax is

    if not 0 < len(segment) <= LONGEST_PER_BYTE * length + PADDING:
        return None
    try:
        values = np.frombuffer(decode_segment(segment), dtype=np.uint8)
    except ValueError:
        return None
    return values if len(values) == length else None
