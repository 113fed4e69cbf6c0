from __future__ import annotations

import math

import numpy as np
import pytest

from vaeseg.evaluation.slices import SliceCounts, concatenate_counts, count_slices, equivalent_diameters_mm, ratio


def slices(*rows: str) -> np.ndarray:
    """One slice of a single row each: "x" is tumour."""
    return np.array([[[pixel == "x" for pixel in row]] for row in rows])


def counts() -> SliceCounts:
    """Half right, missed, invented, nothing on either side."""
    return count_slices(slices("xx..", "....", "x...", "...."), slices("x...", ".xx.", "....", "...."))


def test_pixels_of_each_slice() -> None:
    """Labelled, predicted, shared and either, counted by hand."""
    found = counts()
    np.testing.assert_array_equal(found.label, [1, 2, 0, 0])
    np.testing.assert_array_equal(found.predicted, [2, 0, 1, 0])
    np.testing.assert_array_equal(found.shared, [1, 0, 0, 0])
    np.testing.assert_array_equal(found.union, [2, 2, 1, 0])
    np.testing.assert_array_equal(found.has_label, [True, True, False, False])
    np.testing.assert_array_equal(found.has_prediction, [True, False, True, False])


def test_iou_and_dice_are_undefined_where_nothing_is() -> None:
    """1/2 and 2/3 for the half-right slice, 0 for missed and invented, NaN for nothing."""
    np.testing.assert_array_equal(counts().ious, [0.5, 0, 0, math.nan])
    np.testing.assert_allclose(counts().dices, [2 / 3, 0, 0, math.nan])


def test_counts_are_joined_in_order() -> None:
    """Two groups after one another; no group has no slices."""
    joined = concatenate_counts([counts(), counts()])
    np.testing.assert_array_equal(joined.label, [1, 2, 0, 0, 1, 2, 0, 0])
    assert len(concatenate_counts([])) == 0
    assert concatenate_counts([]).ious.shape == (0,)


def test_shapes_must_agree() -> None:
    """Masks and labels of other shapes, or of two dimensions, are a mistake of the caller."""
    for mask, label in ((slices("x"), slices("xx")), (slices("x")[0], slices("x")[0])):
        with pytest.raises(ValueError, match="expected the same"):
            count_slices(mask, label)


def test_ratio_is_undefined_over_zero() -> None:
    """NaN without a warning."""
    np.testing.assert_array_equal(ratio(np.array([1, 0]), np.array([4, 0])), [0.25, math.nan])


def test_diameter_of_the_disc_of_the_same_area() -> None:
    """A disc of 10 mm has 25 pi mm2."""
    np.testing.assert_allclose(equivalent_diameters_mm(np.array([25 * math.pi, 0.0])), [10.0, 0.0])
