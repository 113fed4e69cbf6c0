"""From HU to intensity, in floating point for networks (`models.preprocessing`) and in whole steps for data sets.

K slices, S side of the model grid.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vaeseg.config import PreprocessingConfig

DEVIATIONS_BELOW, DEVIATIONS_ABOVE = 2.0, 4.0
"""Reach of `volume` and `slice` on either side of the mean: in a lung, mostly air, tissue and bone lie far above it."""
SMALLEST_DEVIATION = 4.0
"""Added to a standard deviation, so that noise in an empty slice is not blown up."""


def intensity_ranges(volume_hu: npt.NDArray[np.int16], preprocessing: PreprocessingConfig) -> npt.NDArray[np.float32]:
    """HU that become 0 and 1 in each slice of a whole (K, S, S) volume on the model grid: (K, 2) float32, K > 0."""
    match preprocessing.intensity:
        case "window":
            bounds = np.array([preprocessing.window_low_hu, preprocessing.window_high_hu])
        case "minmax":
            bounds = np.array([volume_hu.min(), volume_hu.max()])
        case "volume":
            bounds = _about_mean(volume_hu, (0, 1, 2))
        case "slice":
            bounds = _about_mean(volume_hu, (1, 2))
    return np.array(np.broadcast_to(bounds, (len(volume_hu), 2)), dtype=np.float32)


def quantised(
    volume_hu: npt.NDArray[np.int16], ranges_hu: npt.NDArray[np.float32], bits: int
) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Intensity in whole steps of 1/255 or 1/65535, rounded to the nearest; what lies outside the range is clipped.

    Args:
        volume_hu: (K, S, S).
        ranges_hu: (K, 2) from `intensity_ranges`; a slice where both are the same becomes 0.
        bits: 8 or 16.

    Returns:
        (K, S, S) uint8 or uint16.
    """
    steps = np.zeros(volume_hu.shape, dtype=np.uint8 if bits == 8 else np.uint16)
    for k, (low, high) in enumerate(ranges_hu.astype(np.float64)):
        if high > low:
            steps[k] = np.rint(np.clip((volume_hu[k] - low) / (high - low), 0.0, 1.0) * (2**bits - 1))
    return steps


def _about_mean(volume_hu: npt.NDArray[np.int16], axes: tuple[int, ...]) -> npt.NDArray[np.float64]:
    mean = volume_hu.mean(axis=axes, dtype=np.float64)
    deviation = volume_hu.std(axis=axes, dtype=np.float64) + SMALLEST_DEVIATION
    return np.stack([mean - DEVIATIONS_BELOW * deviation, mean + DEVIATIONS_ABOVE * deviation], axis=-1)
