from __future__ import annotations

import math

import numpy as np
import pytest

from vaeseg.evaluation.calibration import N_BINS, CalibrationHistogram


def test_bins_and_error_by_hand() -> None:
    """Four pixels at 0.72 of which three are tumour, two at 0.02 of which none is."""
    histogram = CalibrationHistogram()
    probabilities = np.array([[[0.72, 0.72, 0.72], [0.72, 0.02, 0.02]]], dtype=np.float32)
    histogram.add(probabilities, np.array([[[True, True, True], [False, False, False]]]))
    filled = np.flatnonzero(histogram.n_pixels)
    np.testing.assert_array_equal(filled, [0, 14])
    np.testing.assert_array_equal(histogram.n_pixels[filled], [2, 4])
    np.testing.assert_allclose(histogram.tumour_share[filled], [0, 0.75])
    np.testing.assert_allclose(histogram.mean_probability[filled], [0.02, 0.72], atol=1e-6)
    assert math.isnan(histogram.tumour_share[5])
    assert histogram.expected_error() == pytest.approx((2 * 0.02 + 4 * 0.03) / 6, abs=1e-6)
    assert histogram.expected_error(from_bin=1) == pytest.approx(0.03, abs=1e-6)


def test_it_adds_up_over_calls_and_the_ends_have_bins() -> None:
    """0 lies in the first bin, 1 in the last."""
    histogram = CalibrationHistogram()
    for _ in range(3):
        histogram.add(np.array([[[0.0, 1.0]]], dtype=np.float32), np.array([[[False, True]]]))
    np.testing.assert_array_equal(histogram.n_pixels[[0, N_BINS - 1]], [3, 3])
    assert histogram.expected_error() == 0.0


def test_a_calibrated_forecast_has_next_to_no_error() -> None:
    """Labels drawn with the very probability; turned round, the error is that of the mean distance to it."""
    rng = np.random.default_rng(0)
    probabilities = rng.random((2, 300, 300)).astype(np.float32)
    labels = rng.random(probabilities.shape) < probabilities
    honest, turned = CalibrationHistogram(), CalibrationHistogram()
    honest.add(probabilities, labels)
    turned.add(probabilities, ~labels)
    assert honest.expected_error() == pytest.approx(0, abs=0.01)
    assert turned.expected_error() == pytest.approx(0.5, abs=0.01)


def test_nothing_counted_has_no_error() -> None:
    """No pixels, or none above the first bin."""
    histogram = CalibrationHistogram()
    assert histogram.expected_error() is None
    histogram.add(np.zeros((1, 2, 2), dtype=np.float32), np.zeros((1, 2, 2), dtype=bool))
    assert histogram.expected_error(from_bin=1) is None


def test_shapes_must_agree() -> None:
    """A label of another grid is the caller's mistake."""
    with pytest.raises(ValueError, match="probabilities have shape"):
        CalibrationHistogram().add(np.zeros((1, 2, 2), dtype=np.float32), np.zeros((1, 2, 3), dtype=bool))
