from __future__ import annotations

import math

import numpy as np
import pytest

from vaeseg.evaluation import protocol


def _slices(*rows: str) -> np.ndarray:
    """One slice of a single row each: "x" is tumour."""
    return np.array([[[pixel == "x" for pixel in row]] for row in rows])


MASKS = _slices("xx..", "....", "x...", "....")
LABELS = _slices("x...", ".x..", "....", "....")
IOUS = np.array([0.5, 0.0, 0.0, math.nan])


def test_slice_ious_and_where_they_are_undefined() -> None:
    """Half, missed, invented, and nothing on either side."""
    np.testing.assert_array_equal(protocol.slice_ious(MASKS, LABELS), IOUS)


def test_the_paper_s_mean_counts_slices_with_a_label_or_a_prediction() -> None:
    """The empty slice is left out, the invented tumour is not."""
    assert protocol.mean_iou_label_or_prediction(IOUS) == pytest.approx(0.5 / 3)


def test_mean_over_labelled_slices_leaves_the_invented_tumour_out() -> None:
    """Only two of the four slices hold a label."""
    assert protocol.mean_iou_label(IOUS, protocol.holds_label(LABELS)) == pytest.approx(0.25)


def test_means_of_nothing_are_undefined() -> None:
    """A test set without tumour has no figure, not 0 and not 1."""
    nothing = np.array([math.nan, math.nan])
    assert math.isnan(protocol.mean_iou_label_or_prediction(nothing))
    assert math.isnan(protocol.mean_iou_label(nothing, np.array([False, False])))
    assert math.isnan(protocol.mean_over_subjects({"a": math.nan}))


def test_subject_means_weigh_subjects_and_not_slices() -> None:
    """Subject a has three slices with a figure, b one: the mean over subjects counts each once."""
    per_subject = protocol.subject_mean_ious(np.array([1.0, 0.0, 0.8, 1.0]), ["a", "b", "a", "a"])
    assert per_subject == {"a": pytest.approx(2.8 / 3), "b": 0.0}
    assert protocol.mean_over_subjects(per_subject) == pytest.approx(1.4 / 3)


def test_lengths_and_shapes_must_agree() -> None:
    """Silently broadcasting a figure would report nonsense."""
    with pytest.raises(ValueError, match="expected the same"):
        protocol.slice_ious(MASKS, LABELS[:1])
    with pytest.raises(ValueError, match="4 slices, 1 subjects"):
        protocol.subject_mean_ious(IOUS, ["a"])
    with pytest.raises(ValueError, match="label flags"):
        protocol.mean_iou_label(IOUS, np.array([True]))
