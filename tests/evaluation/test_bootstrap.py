from __future__ import annotations

import math

import numpy as np
import pytest

from vaeseg.evaluation import bootstrap
from vaeseg.evaluation.bootstrap import MedianOfItems, RatioOfSums, draw_subjects, interval, value


def test_a_ratio_under_weights() -> None:
    """Sums 3 of 4 and 1 of 2: together 4/6, the first twice 6/8, the second alone 1/2, none undefined."""
    statistic = RatioOfSums(numerator=np.array([3, 1]), denominator=np.array([4, 2]))
    np.testing.assert_allclose(
        statistic.at(np.array([[1, 1], [2, 0], [0, 2], [0, 0]])), [4 / 6, 3 / 4, 1 / 2, math.nan]
    )
    assert value(statistic, 2) == pytest.approx(4 / 6)


def test_a_median_under_weights() -> None:
    """Subject 0 holds 5 and 1, subject 1 holds 3 and 2: medians of what was drawn, written out."""
    statistic = MedianOfItems(values=np.array([5.0, 3.0, 1.0, 2.0]), subject_of_item=np.array([0, 1, 0, 1]))
    weights = np.array([[1, 1], [2, 0], [0, 1], [0, 0], [3, 1]])
    # 1 2 3 5 | 1 1 5 5 | 2 3 | nothing | 1 1 1 2 3 5 5 5
    np.testing.assert_allclose(statistic.at(weights), [2.5, 3.0, 2.5, math.nan, 2.5])


@pytest.mark.parametrize("seed", range(20))
def test_medians_are_numpy_s_of_the_repeated_items(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the draw, ties included, and in blocks of any size."""
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(bootstrap, "CELLS", int(rng.integers(1, 60)))
    values, subjects = rng.integers(0, 6, 17).astype(float), rng.integers(0, 5, 17)
    weights = draw_subjects(5, 40, seed)
    expected = []
    for row in weights:
        items = np.repeat(values, row[subjects])
        expected.append(np.median(items) if len(items) else math.nan)
    np.testing.assert_allclose(MedianOfItems(values=values, subject_of_item=subjects).at(weights), expected)


def test_draws_take_as_many_subjects_as_there_are() -> None:
    """Rows add up, every subject is drawn about once a draw, and a seed decides all."""
    draws = draw_subjects(7, 3000, seed=1)
    assert draws.shape == (3000, 7)
    assert set(draws.sum(axis=1)) == {7}
    np.testing.assert_allclose(draws.mean(axis=0), 1, atol=0.08)
    np.testing.assert_array_equal(draws, draw_subjects(7, 3000, seed=1))
    assert not np.array_equal(draws, draw_subjects(7, 3000, seed=2))
    assert draw_subjects(0, 5).shape == (5, 0)


def test_interval_of_a_mean_is_that_of_theory() -> None:
    """The mean of 400 values with standard deviation 1: about 1.96 / sqrt(400) on either side."""
    values = np.random.default_rng(0).normal(size=400)
    values = (values - values.mean()) / values.std()
    found = interval(RatioOfSums(numerator=values, denominator=np.ones(400)), draw_subjects(400, 4000, 0))
    assert found == (pytest.approx(-0.098, abs=0.007), pytest.approx(0.098, abs=0.007))


def test_draws_without_the_figure_are_left_out() -> None:
    """Two of eight subjects have one slice each with IoU 0 and 1: a draw may hold neither."""
    numerator, denominator = np.zeros(8), np.zeros(8)
    numerator[0], denominator[:2] = 1, 1
    assert interval(RatioOfSums(numerator=numerator, denominator=denominator), draw_subjects(8, 500, 0)) == (0.0, 1.0)


def test_one_subject_has_no_interval() -> None:
    """It says nothing about others; nor does a figure to which one subject alone contributes."""
    assert interval(RatioOfSums(numerator=np.array([1]), denominator=np.array([2])), draw_subjects(1)) is None
    one = RatioOfSums(numerator=np.array([1, 0]), denominator=np.array([2, 0]))
    assert interval(one, draw_subjects(2)) is None
    items = MedianOfItems(values=np.array([1.0, 2.0]), subject_of_item=np.array([1, 1]))
    assert interval(items, draw_subjects(2)) is None


def test_a_figure_of_nothing_is_none() -> None:
    """No subjects, or no items."""
    assert value(RatioOfSums(numerator=np.zeros(0), denominator=np.zeros(0)), 0) is None
    nothing = MedianOfItems(values=np.zeros(0), subject_of_item=np.zeros(0, dtype=np.int64))
    assert value(nothing, 3) is None
    assert interval(nothing, draw_subjects(3)) is None
