"""Where in an array its mask is."""

from __future__ import annotations

import numpy as np

from vaeseg.records import BoolArray

Box = tuple[slice, slice, slice]
"""(k, j, i) ranges; indexes an array."""


def bounding_box(mask: BoolArray) -> Box:
    """Smallest box that holds every True voxel of a (K, J, I) mask; three empty slices for an empty mask."""
    in_slices = np.flatnonzero(mask.any(axis=(1, 2)))
    if in_slices.size == 0:
        return (slice(0, 0), slice(0, 0), slice(0, 0))
    k = slice(int(in_slices[0]), int(in_slices[-1]) + 1)
    plane = np.asarray(mask[k].any(axis=0))
    in_rows, in_columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
    return (
        k,
        slice(int(in_rows[0]), int(in_rows[-1]) + 1),
        slice(int(in_columns[0]), int(in_columns[-1]) + 1),
    )
