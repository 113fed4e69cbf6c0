from __future__ import annotations

import math

import numpy as np
import pytest

from vaeseg.evaluation.overlap import dice, iou


def _strip(*on: int) -> np.ndarray:
    strip = np.zeros((1, 2, 4), dtype=bool)
    strip.reshape(-1)[list(on)] = True
    return strip


def test_known_overlap() -> None:
    """Three voxels against two with one shared: Dice 2/5, IoU 1/4."""
    assert dice(_strip(0, 1, 2), _strip(2, 7)) == pytest.approx(2 / 5)
    assert iou(_strip(0, 1, 2), _strip(2, 7)) == pytest.approx(1 / 4)


def test_same_mask_is_one_and_disjoint_masks_are_zero() -> None:
    """The ends of the scale are exact."""
    assert (dice(_strip(3), _strip(3)), iou(_strip(3), _strip(3))) == (1.0, 1.0)
    assert (dice(_strip(3), _strip(4)), iou(_strip(3), _strip(4))) == (0.0, 0.0)


def test_both_empty_is_undefined_and_one_empty_is_zero() -> None:
    """No tumour and none found is neither good nor bad; one without the other is 0."""
    assert math.isnan(dice(_strip(), _strip()))
    assert math.isnan(iou(_strip(), _strip()))
    assert dice(_strip(), _strip(1)) == iou(_strip(1), _strip()) == 0.0


def test_shapes_must_agree_even_when_they_would_broadcast() -> None:
    """A (1, 2, 4) mask against a (2, 4) one is a mistake of the caller."""
    for measure in (dice, iou):
        with pytest.raises(ValueError, match=r"\(1, 2, 4\).*\(2, 4\)"):
            measure(_strip(0), _strip(0)[0])
