"""From the positions of single slices to one regular stack, or the reason why there is none.

Order and spacing come from ImagePositionPatient along the slice normal; never from InstanceNumber, SliceLocation,
SliceThickness or file names, each of which is wrong on some scanner.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vaeseg.errors import ReadingError
from vaeseg.records import FloatArray, IntArray, Reason

SPACING_RELATIVE_TOLERANCE = 1e-2
"""Slices further from regular than this are not one volume."""

SPACING_ABSOLUTE_TOLERANCE_MM = 1e-2
"""Positions are written with two or three decimals; closer than this nothing can be said."""

ROUNDING_MM = 1e-6
"""Binary fractions: 0.63 - 0.62 is not quite 0.01."""

MISSING_BLOCK = 3
"""This many equal wide gaps in one block are a second spacing, not lost slices."""

LATERAL_TOLERANCE_MM = 0.1
"""First pixels may leave the straight line through the stack by this much in the slice plane."""

DRIFT_TOLERANCE = 0.1
"""No slice may lie further than this share of the spacing from where a regular stack has it."""

DIRECTION_TOLERANCE = 1e-2
"""ImageOrientationPatient must be two orthogonal unit vectors to this accuracy."""

TILT_TOLERANCE_DEGREES = 0.1
"""Below this angle between step and normal a stack is not called tilted."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Stack:
    """A regular stack of slices."""

    order: IntArray
    """(K,) indices into the positions given, along the normal."""
    step_mm: FloatArray
    """(3,) LPS vector from one slice to the next."""
    tilt_degrees: float
    """Angle between step and slice normal; 0 for an upright gantry."""


def unit_directions(orientation: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Row and column directions of an ImageOrientationPatient, made exactly unit and orthogonal.

    Raises:
        ReadingError: ``invalid_geometry``, they are not nearly so.
    """
    row, column = np.asarray(orientation[:3], dtype=np.float64), np.asarray(orientation[3:], dtype=np.float64)
    lengths = float(np.linalg.norm(row)), float(np.linalg.norm(column))
    skew = abs(float(row @ column))
    if not np.isfinite(orientation).all() or max(abs(lengths[0] - 1), abs(lengths[1] - 1), skew) > DIRECTION_TOLERANCE:
        raise ReadingError(
            Reason.INVALID_GEOMETRY,
            f"ImageOrientationPatient has lengths {lengths[0]:.4g} and {lengths[1]:.4g} and dot product {skew:.4g}, "
            "expected 1, 1 and 0",
        )
    row = row / lengths[0]
    column = column - row * float(row @ column)
    return row, column / np.linalg.norm(column)


def distances_along_normal(positions: FloatArray, row: FloatArray, column: FloatArray) -> FloatArray:
    """(N,) mm: each first pixel's distance from the origin along the slice normal (row x column)."""
    return np.asarray(positions @ np.cross(row, column))


def stack_slices(positions: FloatArray, row: FloatArray, column: FloatArray) -> Stack:
    """Order slices along their normal and prove that they are regular.

    Args:
        positions: (N, 3) ImagePositionPatient, LPS mm, in any order, N at least 2.
        row: (3,) unit row direction, the same for all.
        column: (3,) unit column direction.

    Raises:
        ReadingError: ``single_slice``, ``duplicate_positions``, ``missing_slices``, ``non_uniform_spacing`` or
            ``inconsistent_geometry``.
    """
    if len(positions) < 2:
        raise ReadingError(Reason.SINGLE_SLICE, "1 slice has no spacing, expected at least 2")
    distances = distances_along_normal(positions, row, column)
    order = np.argsort(distances, kind="stable")
    _check_spacing(distances[order])
    ordered = positions[order]
    step = (ordered[-1] - ordered[0]) / (len(ordered) - 1)
    normal = np.cross(row, column)
    _check_straight(ordered, step, normal)
    cosine = float(step @ normal / np.linalg.norm(step))
    return Stack(order=order, step_mm=step, tilt_degrees=float(np.degrees(np.arccos(min(1.0, cosine)))))


def _check_spacing(distances: FloatArray) -> None:
    gaps = np.diff(distances)
    if gaps.min() <= SPACING_ABSOLUTE_TOLERANCE_MM:
        k = int(gaps.argmin())
        raise ReadingError(
            Reason.DUPLICATE_POSITIONS, f"slices {k} and {k + 1} both lie at {distances[k]:.3f} mm along the normal"
        )
    expected = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    off = np.abs(gaps - expected) > _tolerance(expected)
    if not off.any():
        return
    k = int(np.abs(gaps - expected).argmax())
    detail = f"slice spacing {gaps[k]:.4g} mm after slice {k}, expected {expected:.4g} mm; {int(off.sum())} such gaps"
    raise ReadingError(Reason.MISSING_SLICES if _slices_are_missing(gaps) else Reason.NON_UNIFORM_SPACING, detail)


def _slices_are_missing(gaps: FloatArray) -> bool:
    """Whether the gaps are what losing some slices of a regular stack leaves, and not two spacings side by side."""
    unit = float(gaps.min())
    multiples = np.rint(gaps / unit)
    if (np.abs(gaps - multiples * unit) > multiples * _tolerance(unit)).any():
        return False
    wide = np.flatnonzero(multiples > 1)
    is_one_block = len(wide) >= MISSING_BLOCK and wide[-1] - wide[0] == len(wide) - 1
    return not (is_one_block and np.ptp(multiples[wide]) == 0)


def _tolerance(spacing: float) -> float:
    return max(SPACING_ABSOLUTE_TOLERANCE_MM, SPACING_RELATIVE_TOLERANCE * spacing) + ROUNDING_MM


def _check_straight(ordered: FloatArray, step: FloatArray, normal: FloatArray) -> None:
    off = ordered - (ordered[0] + np.arange(len(ordered))[:, None] * step)
    along = off @ normal
    lateral = np.linalg.norm(off - along[:, None] * normal, axis=1)
    if lateral.max() > LATERAL_TOLERANCE_MM:
        k = int(lateral.argmax())
        raise ReadingError(
            Reason.INCONSISTENT_GEOMETRY,
            f"slice {k} lies {lateral[k]:.3f} mm beside the line through the stack, "
            f"expected at most {LATERAL_TOLERANCE_MM} mm",
        )
    spacing = float(step @ normal)
    if np.abs(along).max() > max(DRIFT_TOLERANCE * spacing, SPACING_ABSOLUTE_TOLERANCE_MM):
        k = int(np.abs(along).argmax())
        raise ReadingError(
            Reason.NON_UNIFORM_SPACING,
            f"slice {k} lies {abs(along[k]):.3f} mm from its place in a stack with spacing {spacing:.4g} mm",
        )
