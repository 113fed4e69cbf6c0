"""How two ways to measure the same volumes agree (Bland and Altman 1986)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vaeseg.records import FloatArray

LIMITS = 1.96
"""Standard deviations on either side of the mean within which 95 % of normal differences lie."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Differences of predicted and labelled volumes."""

    n: int
    """Subjects."""
    mean_difference_ml: float
    """Of predicted minus labelled: above 0, too much is drawn."""
    sd_ml: float
    """Standard deviation of the differences, n - 1 in the denominator."""
    low_ml: float
    """Lower 95 % limit of agreement, mean - 1.96 SD."""
    high_ml: float
    """Upper 95 % limit of agreement."""


def bland_altman(predicted_ml: FloatArray, labelled_ml: FloatArray) -> Agreement | None:
    """Mean difference and 95 % limits of agreement.

    Args:
        predicted_ml: (n,) volume of each subject.
        labelled_ml: (n,) of the same subjects.

    Returns:
        None for fewer than two subjects.

    Raises:
        ValueError: the lengths differ.
    """
    if predicted_ml.shape != labelled_ml.shape:
        raise ValueError(f"{predicted_ml.shape} predicted volumes, {labelled_ml.shape} labelled")
    if len(predicted_ml) < 2:
        return None
    differences = np.asarray(predicted_ml - labelled_ml, dtype=np.float64)
    mean, sd = float(differences.mean()), float(differences.std(ddof=1))
    return Agreement(
        n=len(differences),
        mean_difference_ml=mean,
        sd_ml=sd,
        low_ml=mean - LIMITS * sd,
        high_ml=mean + LIMITS * sd,
    )
