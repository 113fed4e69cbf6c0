"""Stacking: order and spacing from positions, and a named reason wherever they are not regular."""

from __future__ import annotations

import numpy as np
import pytest

from vaeseg.errors import ReadingError
from vaeseg.geometry.stacking import stack_slices, unit_directions

ROW, COLUMN = np.array([1.0, 0, 0]), np.array([0, 1.0, 0])


def along_z(z: list[float] | np.ndarray) -> np.ndarray:
    return np.stack([np.full(len(z), -10.0), np.full(len(z), 20.0), np.asarray(z, dtype=float)], axis=1)


def reason_of(z: list[float] | np.ndarray) -> str:
    with pytest.raises(ReadingError) as caught:
        stack_slices(along_z(z), ROW, COLUMN)
    return str(caught.value.reason)


def test_order_and_step_of_shuffled_slices() -> None:
    """Slices come out along the normal, whatever order they had."""
    stack = stack_slices(along_z([5, 0, 7.5, 2.5]), ROW, COLUMN)
    assert stack.order.tolist() == [1, 3, 0, 2]
    np.testing.assert_allclose(stack.step_mm, [0, 0, 2.5])
    assert stack.tilt_degrees == pytest.approx(0, abs=1e-6)


def test_order_follows_the_normal_and_not_z() -> None:
    """Feet-first or prone: the normal points down, and so does the stack."""
    stack = stack_slices(along_z([0, 2, 4]), -ROW, COLUMN)
    assert stack.order.tolist() == [2, 1, 0]
    np.testing.assert_allclose(stack.step_mm, [0, 0, -2])


@pytest.mark.parametrize(
    ("z", "reason"),
    [
        ([0], "single_slice"),
        ([0, 1, 1, 2], "duplicate_positions"),
        ([0, 1, 1.005, 2], "duplicate_positions"),
        ([0, 1, 2, 4, 5], "missing_slices"),
        ([0, 1, 3], "missing_slices"),
        ([0, 2, 3, 5, 6, 8], "missing_slices"),
        ([0, 1, 2, 3, 30, 31], "missing_slices"),
        ([0, 1, 2, 3.3, 4.3], "non_uniform_spacing"),
        ([0, 1, 2, 3, 8, 13, 18], "non_uniform_spacing"),
        ([0, 1, 2, 3.5, 5, 6.5], "non_uniform_spacing"),
        ([0, 1, 2, 3, 4.03], "non_uniform_spacing"),
    ],
)
def test_reason(z: list[float], reason: str) -> None:
    """Each irregularity has its own name; a second spacing is not called missing slices."""
    assert reason_of(z) == reason


def test_drift_that_no_single_gap_shows() -> None:
    """Gaps within one per cent of each other can still add up to a tenth of a slice."""
    gaps = np.concatenate([np.full(40, 1.0), np.full(40, 1.0095)])
    assert reason_of(np.concatenate([[0], np.cumsum(gaps)])) == "non_uniform_spacing"


@pytest.mark.parametrize("decimals", [2, 3, 4])
@pytest.mark.parametrize("spacing", [0.625, 0.3333, 1.25, 2.497, 5.0])
def test_positions_rounded_when_they_were_written(spacing: float, decimals: int) -> None:
    """Two decimals are common; 0.62 and 0.63 alternate, and floating point puts them 0.01 and a bit apart."""
    stack = stack_slices(along_z(np.round(-312.47 + spacing * np.arange(300), decimals)), ROW, COLUMN)
    assert stack.step_mm[2] == pytest.approx(spacing, abs=1e-4)


def test_tilt_is_kept_in_the_step() -> None:
    """A tilted gantry moves slices sideways; the step holds it and the angle says it."""
    positions = along_z([0, 3, 6])
    positions[:, 1] += [0, 1, 2]
    stack = stack_slices(positions, ROW, COLUMN)
    np.testing.assert_allclose(stack.step_mm, [0, 1, 3])
    assert stack.tilt_degrees == pytest.approx(np.degrees(np.arctan(1 / 3)))


def test_a_slice_beside_the_line() -> None:
    """One slice 1 mm aside is no tilt and no volume."""
    positions = along_z([0, 3, 6, 9])
    positions[1, 0] += 1
    with pytest.raises(ReadingError, match="inconsistent_geometry"):
        stack_slices(positions, ROW, COLUMN)


def test_directions_are_made_exact() -> None:
    """Six decimals leave a small skew; what comes out is orthonormal."""
    row, column = unit_directions(np.array([0.9999, 0.001, 0, 0.0, 1.0, 0.0]))
    assert np.linalg.norm(row) == pytest.approx(1, abs=1e-15)
    assert row @ column == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("orientation", [[0] * 6, [1, 0, 0, 1, 0, 0], [2, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0.9, 0]])
def test_directions_that_are_none(orientation: list[float]) -> None:
    """Zero, parallel or scaled direction cosines are refused."""
    with pytest.raises(ReadingError, match="invalid_geometry"):
        unit_directions(np.array(orientation, dtype=float))
