"""How well a mask agrees with a reference, over whole arrays of any shape."""

from __future__ import annotations

import numpy as np

from vaeseg.records import BoolArray


def dice(mask: BoolArray, reference: BoolArray) -> float:
    """Dice coefficient of two masks, 2 |A and B| / (|A| + |B|) (Dice 1945).

    Args:
        mask: bool array of any shape, predicted.
        reference: bool array of the same shape.

    Returns:
        Value in [0, 1]; NaN when both masks are empty.

    Raises:
        ValueError: the shapes differ.
    """
    shared, in_mask, in_reference = _counts(mask, reference)
    total = in_mask + in_reference
    return 2 * shared / total if total else float("nan")


def iou(mask: BoolArray, reference: BoolArray) -> float:
    """Intersection over union of two masks, |A and B| / |A or B| (Jaccard 1912).

    Args:
        mask: bool array of any shape, predicted.
        reference: bool array of the same shape.

    Returns:
        Value in [0, 1]; NaN when both masks are empty.

    Raises:
        ValueError: the shapes differ.
    """
    shared, in_mask, in_reference = _counts(mask, reference)
    union = in_mask + in_reference - shared
    return shared / union if union else float("nan")


def _counts(mask: BoolArray, reference: BoolArray) -> tuple[int, int, int]:
    """Elements in both, in the mask, in the reference."""
    if mask.shape != reference.shape:
        raise ValueError(f"mask has shape {mask.shape}, reference {reference.shape}")
    shared = int(np.count_nonzero(mask & reference))
    return shared, int(np.count_nonzero(mask)), int(np.count_nonzero(reference))
