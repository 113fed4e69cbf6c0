"""Memory that one step frees is kept for the next, instead of going back to the system."""

from __future__ import annotations

import ctypes

LARGEST_KEPT = 2**30
"""Bytes of one piece."""
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
"""Names of mallopt(3)."""


def keep_freed_memory() -> bool:
    """Have the C library hold on to what this process frees, for good: pieces up to `LARGEST_KEPT`, and of threads
    other than the main one pieces of less than 64 MiB.

    glibc gives each piece of more than 32 MiB back at once, and the system fills the next one with zeros page by page:
    half the time of a step of the paper's stage one at 256 x 256, 32 slices at a time, on a CPU. One that refuses so
    large a threshold (older ones do) is left as it is, and so are other C libraries.

    Returns:
        Whether it does from now on.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(set_option(_MMAP_THRESHOLD, LARGEST_KEPT) and set_option(_TRIM_THRESHOLD, -1))
