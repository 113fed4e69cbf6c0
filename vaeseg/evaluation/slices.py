"""Slices reduced to what every figure is made of: pixels labelled, pixels predicted, pixels shared.

N slices. Tables of counts are small where masks are not, so that an evaluation of any size keeps flat memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from vaeseg.records import BoolArray, FloatArray

_IN_PLANE = (1, 2)

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class SliceCounts:
    """Pixels of N slices."""

    label: Counts
    """(N,) pixels labelled."""
    predicted: Counts
    """(N,) pixels predicted."""
    shared: Counts
    """(N,) pixels both labelled and predicted."""

    def __len__(self) -> int:
        return len(self.label)

    @cached_property
    def union(self) -> Counts:
        """(N,) pixels labelled or predicted."""
        return self.label + self.predicted - self.shared

    @cached_property
    def ious(self) -> npt.NDArray[np.float64]:
        """(N,) intersection over union; NaN where a slice holds neither label nor prediction."""
        return ratio(self.shared, self.union)

    @cached_property
    def dices(self) -> npt.NDArray[np.float64]:
        """(N,) Dice; NaN where a slice holds neither label nor prediction."""
        return ratio(2 * self.shared, self.label + self.predicted)

    @cached_property
    def has_label(self) -> BoolArray:
        """(N,) whether a slice holds a label."""
        return self.label > 0

    @cached_property
    def has_prediction(self) -> BoolArray:
        """(N,) whether a slice holds a prediction."""
        return self.predicted > 0


def count_slices(masks: BoolArray, labels: BoolArray) -> SliceCounts:
    """Count the pixels of each slice.

    Args:
        masks: (N, J, I) bool, predicted.
        labels: (N, J, I) bool.

    Raises:
        ValueError: the shapes differ or are not three-dimensional.
    """
    if masks.shape != labels.shape or masks.ndim != 3:
        raise ValueError(f"masks have shape {masks.shape}, labels {labels.shape}; expected the same (N, J, I)")
    return SliceCounts(label=_pixels(labels), predicted=_pixels(masks), shared=_pixels(masks & labels))


def concatenate_counts(parts: Sequence[SliceCounts]) -> SliceCounts:
    """The counts of several groups of slices, one after another; no parts give no slices."""
    nothing = np.zeros(0, dtype=np.int64)
    return SliceCounts(
        label=np.concatenate([nothing, *(part.label for part in parts)]),
        predicted=np.concatenate([nothing, *(part.predicted for part in parts)]),
        shared=np.concatenate([nothing, *(part.shared for part in parts)]),
    )


def ratio(numerator: npt.NDArray[Any], denominator: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Quotient of two arrays of one shape, float64; NaN where the denominator is 0."""
    undefined = np.full(np.shape(denominator), np.nan)
    return np.asarray(np.divide(numerator, denominator, out=undefined, where=np.asarray(denominator) != 0))


def equivalent_diameters_mm(areas_mm2: FloatArray) -> npt.NDArray[np.float64]:
    """Diameter of the disc of the same area, 2 sqrt(area / pi): (N,) mm2 to (N,) mm; 0 for none, NaN for NaN."""
    return np.asarray(2 * np.sqrt(np.asarray(areas_mm2, dtype=np.float64) / np.pi))


def _pixels(masks: BoolArray) -> Counts:
    return np.asarray(np.count_nonzero(masks, axis=_IN_PLANE), dtype=np.int64)
