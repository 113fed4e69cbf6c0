"""How far a figure would move with other subjects of the same kind: the percentile bootstrap (Efron 1979).

Slices of a subject resemble one another, so subjects are drawn and not slices. B draws, n subjects. A draw is a row of
weights: how often each subject was drawn. Every figure is a function of such weights, and the figure itself is that of
weights of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vaeseg.evaluation.slices import ratio
from vaeseg.records import IntArray

N_DRAWS = 4000
"""Two runs with different seeds then differ by less than a twentieth of the interval's width."""

LEVEL = 0.95
"""Of the interval: its ends are the 2.5th and the 97.5th percentile."""

CELLS = 4_000_000
"""Weights held at once while medians are taken, so that memory stays flat however many slices there are."""

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class RatioOfSums:
    """A figure that is a sum over subjects divided by a sum over subjects; a mean over slices is one, too."""

    numerator: npt.NDArray[Any]
    """(n,) of each subject."""
    denominator: npt.NDArray[Any]
    """(n,) of each subject, not negative; subjects with 0 add nothing."""

    @property
    def n_contributing(self) -> int:
        """Subjects that the figure rests on."""
        return int(np.count_nonzero(self.denominator))

    def at(self, weights: IntArray) -> Values:
        """(B, n) weights to (B,) figures; NaN where no subject with a denominator was drawn."""
        return ratio(weights @ np.asarray(self.numerator, np.float64), weights @ np.asarray(self.denominator, np.int64))


@dataclass(frozen=True, kw_only=True, eq=False)
class MedianOfItems:
    """A figure that is the median over items, each of which belongs to a subject and is drawn with it."""

    values: Values
    """(m,) finite."""
    subject_of_item: IntArray
    """(m,) index of a subject."""

    @property
    def n_contributing(self) -> int:
        """Subjects that the figure rests on."""
        return len(np.unique(self.subject_of_item))

    def at(self, weights: IntArray) -> Values:
        """(B, n) weights to (B,) medians; NaN where no item was drawn."""
        order = np.argsort(self.values, kind="stable")
        values, subjects = self.values[order], self.subject_of_item[order]
        if len(values) == 0:
            return np.full(len(weights), np.nan)
        rows = max(1, CELLS // len(values))
        parts = [_medians(values, weights[start : start + rows][:, subjects]) for start in range(0, len(weights), rows)]
        return np.concatenate(parts)


Statistic = RatioOfSums | MedianOfItems


def value(statistic: Statistic, n_subjects: int) -> float | None:
    """The figure itself; None where it is undefined."""
    (found,) = statistic.at(np.ones((1, n_subjects), dtype=np.int64))
    return None if np.isnan(found) else float(found)


def draw_subjects(n_subjects: int, n_draws: int = N_DRAWS, seed: int = 0) -> npt.NDArray[np.int64]:
    """How often each subject is drawn when as many as there are are drawn with replacement.

    Returns:
        (n_draws, n_subjects) int64, each row adding up to n_subjects; the same for the same seed.
    """
    shares = np.full(n_subjects, 1 / max(n_subjects, 1))
    if n_subjects == 0:
        return np.zeros((n_draws, 0), dtype=np.int64)
    return np.random.default_rng(seed).multinomial(n_subjects, shares, size=n_draws)


def interval(statistic: Statistic, draws: IntArray) -> tuple[float, float] | None:
    """Percentile interval of a figure.

    Args:
        statistic: the figure.
        draws: (B, n) from `draw_subjects`.

    Returns:
        Its 2.5th and 97.5th percentile over the draws in which it is defined; None where fewer than two subjects
        contribute, since one subject says nothing about others.
    """
    if statistic.n_contributing < 2:
        return None
    found = statistic.at(draws)
    low, high = np.quantile(found[~np.isnan(found)], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _medians(values: Values, weights: IntArray) -> Values:
    """Median of each row: ascending (m,) values, of which row b of (B, m) holds value v weights[b, v] times."""
    held = weights.cumsum(axis=1)
    total = held[:, -1]
    lower = _at_rank(values, held, (total - 1) // 2)
    upper = _at_rank(values, held, total // 2)
    return np.where(total > 0, (lower + upper) / 2, np.nan)


def _at_rank(values: Values, held: IntArray, rank: IntArray) -> Values:
    """The value that stands at a rank, from 0, of each row, (B,) ranks to (B,) values."""
    found = (held <= rank[:, None]).sum(axis=1)
    return np.asarray(values[np.minimum(found, len(values) - 1)])
