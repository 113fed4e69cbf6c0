from __future__ import annotations

import numpy as np
import pytest

from vaeseg.evaluation.agreement import bland_altman


def test_mean_difference_and_limits_by_hand() -> None:
    """Differences 1, 2, 3: mean 2, standard deviation 1."""
    found = bland_altman(np.array([11.0, 22.0, 33.0]), np.array([10.0, 20.0, 30.0]))
    assert found is not None
    assert (found.n, found.mean_difference_ml, found.sd_ml) == (3, pytest.approx(2.0), pytest.approx(1.0))
    assert (found.low_ml, found.high_ml) == (pytest.approx(0.04), pytest.approx(3.96))


def test_one_subject_has_no_limits() -> None:
    """A standard deviation needs two."""
    assert bland_altman(np.array([1.0]), np.array([2.0])) is None


def test_lengths_must_agree() -> None:
    """Volumes of other subjects are the caller's mistake."""
    with pytest.raises(ValueError, match="predicted volumes"):
        bland_altman(np.array([1.0]), np.array([1.0, 2.0]))
