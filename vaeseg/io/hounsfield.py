"""Collecting slices into one volume of Hounsfield units, as int16 for as long as that loses nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vaeseg.errors import ReadingError
from vaeseg.records import Reason, Volume, Warn

HU_FLOOR = -1024
"""Nothing is less dense than air (-1000 HU); scanners write -2000 to -3024 outside their circular field of view."""
INT16_MAX = np.iinfo(np.int16).max
FEWEST_LEVELS = 16
"""HU between the least and the greatest value of an image with fractions: of less, rounding leaves next to nothing."""


class HuStack:
    """A (K, J, I) volume filled slice by slice.

    It is int16 until a slice holds fractions, or values above 32767; from then on float32. Values below `HU_FLOOR` are
    padding and are clipped to it, with a warning.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.volume_hu: npt.NDArray[np.int16] | npt.NDArray[np.float32] = np.empty(shape, dtype=np.int16)
        self.warnings: frozenset[Warn] = frozenset()

    def put(self, k: int, values: npt.NDArray[Any]) -> None:
        """Store slice k.

        Args:
            k: slice index.
            values: (J, I) HU, integer or float.

        Raises:
            ReadingError: ``non_finite_voxels``.
        """
        if values.dtype.kind == "f":
            with np.errstate(over="ignore"):
                values = values.astype(np.float32)
            if not np.isfinite(values).all():
                raise ReadingError(Reason.NON_FINITE_VOXELS, f"slice {k} holds NaN or infinite values")
        if values.min() < HU_FLOOR:
            self.warnings |= {Warn.PADDING_CLIPPED}
            values = np.maximum(values, HU_FLOOR)
        if self.volume_hu.dtype == np.int16 and not _fits_int16(values):
            self.volume_hu = self.volume_hu.astype(np.float32)
        self.volume_hu[k] = values


def _fits_int16(values: npt.NDArray[Any]) -> bool:
    if values.max() > INT16_MAX:
        return False
    return values.dtype.kind in "iu" or bool((values == np.rint(values)).all())


def is_above_int16(volume: Volume) -> bool:
    """Whether it holds values that whole numbers of 16 bits, which is what models are given, cannot hold."""
    return volume.volume_hu.dtype != np.int16 and bool(volume.volume_hu.max() > INT16_MAX)


def check_levels(volume: Volume, *, allow_whole: bool) -> None:
    """Refuse an image with so few levels that whole numbers would leave next to nothing of it.

    Args:
        volume: any.
        allow_whole: take one of whole numbers all the same; a NIfTI file of so few is a label.

    Raises:
        ReadingError: ``not_hounsfield_units``.
    """
    if allow_whole and volume.volume_hu.dtype == np.int16:
        return
    low, high = float(volume.volume_hu.min()), float(volume.volume_hu.max())
    if high - low < FEWEST_LEVELS:
        detail = f"values between {low:g} and {high:g}, as of fractions or of a label"
        raise ReadingError(Reason.NOT_HOUNSFIELD_UNITS, detail)
