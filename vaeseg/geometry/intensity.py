"""From HU to intensity, in floating point for networks (`models.preprocessing`) and in whole steps for data sets.

K slices, S side of the model grid.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vaeseg.config import PreprocessingConfig


def intensity_range(volume_hu: npt.NDArray[np.int16], preprocessing: PreprocessingConfig) -> tuple[float, float]:
    """HU that become 0 and 1: the window, or the range of this whole (K, S, S) volume on the model grid."""
    if preprocessing.intensity == "window":
        return preprocessing.window_low_hu, preprocessing.window_high_hu
    return float(volume_hu.min()), float(volume_hu.max())


def quantised(
    volume_hu: npt.NDArray[np.int16], range_hu: tuple[float, float], bits: int
) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Intensity in whole steps of 1/255 or 1/65535, rounded to the nearest; what lies outside the range is clipped.

    Args:
        volume_hu: (K, S, S).
        range_hu: HU that become 0 and the highest step; where both are the same, everything is 0.
        bits: 8 or 16.

    Returns:
        (K, S, S) uint8 or uint16.
    """
    low, high = range_hu
    every_hu = np.arange(2**16, dtype=np.uint16).view(np.int16).astype(np.float64)
    intensity = np.clip((every_hu - low) / (high - low), 0.0, 1.0) if high > low else np.zeros(2**16)
    steps: npt.NDArray[np.float64] = np.rint(intensity * (2**bits - 1))
    place = np.ascontiguousarray(volume_hu).view(np.uint16)
    return steps.astype(np.uint8)[place] if bits == 8 else steps.astype(np.uint16)[place]
