"""A slab of slices that is painted on, in millimetres of the scanner's space.

Shapes are painted with a soft edge of one pixel, so that a voxel at a boundary holds the share of each tissue, and
only inside their bounding boxes, so that a small shape costs little.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from vaeseg.records import FloatArray

Hounsfield = npt.NDArray[np.float32]
Window = tuple[slice, slice, slice]
Blend = Literal["cover", "brighten", "darken"]

LUNG_BACKGROUND_HU = -850.0
"""What lies behind the soft edge of a shape that brightens the lung."""

SOFT_BACKGROUND_HU = 0.0
"""What lies behind the soft edge of a shape that darkens soft tissue."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Canvas:
    """Slices under the brush: scanner space is LPS about the isocentre, in mm."""

    hu: Hounsfield
    """(N, J, I) float32, painted in place."""
    z_mm: FloatArray
    """(N,) slice centres, ascending and evenly spaced."""
    y_mm: Hounsfield
    """(J,) row centres."""
    x_mm: Hounsfield
    """(I,) column centres."""

    @property
    def pixel_mm(self) -> float:
        """Side of a square pixel, mm."""
        return float(self.x_mm[1] - self.x_mm[0])

    def window(self, low: FloatArray, high: FloatArray) -> Window | None:
        """Index ranges of the voxels whose centres lie in a box given by (x, y, z) mm; None when there are none."""
        x = _range(self.x_mm, float(low[0]), float(high[0]))
        y = _range(self.y_mm, float(low[1]), float(high[1]))
        z = _range(self.z_mm, float(low[2]), float(high[2]))
        return None if x is None or y is None or z is None else (z, y, x)

    def offsets(self, window: Window, origin: FloatArray) -> tuple[Hounsfield, Hounsfield, Hounsfield]:
        """Open grids (1,1,I), (1,J,1), (N,1,1) float32: x, y, z of a window's voxel centres less the origin, mm."""
        z, y, x = window
        return (
            (self.x_mm[None, None, x] - np.float32(origin[0])).astype(np.float32),
            (self.y_mm[None, y, None] - np.float32(origin[1])).astype(np.float32),
            (self.z_mm[z, None, None] - origin[2]).astype(np.float32),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Tubes:
    """Straight tapering tubes with round ends, in scanner space."""

    start: FloatArray
    """(N, 3) x, y, z mm."""
    end: FloatArray
    """(N, 3) x, y, z mm."""
    start_radius: FloatArray
    """(N,) mm."""
    end_radius: FloatArray
    """(N,) mm."""

    def widened(self, scale: float, margin_mm: float = 0.0) -> Tubes:
        """The same centre lines, radius times `scale` plus `margin_mm`."""
        return Tubes(
            start=self.start,
            end=self.end,
            start_radius=self.start_radius * scale + margin_mm,
            end_radius=self.end_radius * scale + margin_mm,
        )


def polyline_tubes(points: FloatArray, radius: FloatArray) -> Tubes:
    """A chain of tubes through (N, 3) points with (N,) radii."""
    return Tubes(start=points[:-1], end=points[1:], start_radius=radius[:-1], end_radius=radius[1:])


def joined_tubes(parts: list[Tubes]) -> Tubes:
    """All the tubes of several sets; at least one set."""
    return Tubes(
        start=np.concatenate([part.start for part in parts]),
        end=np.concatenate([part.end for part in parts]),
        start_radius=np.concatenate([part.start_radius for part in parts]),
        end_radius=np.concatenate([part.end_radius for part in parts]),
    )


def paint_tubes(canvas: Canvas, tubes: Tubes, hu: float, blend: Blend) -> None:
    """Paint every tube that touches the slab.

    Args:
        canvas: painted in place.
        tubes: in scanner space.
        hu: inside the tubes.
        blend: `cover` replaces what is there, `brighten` and `darken` only raise or only lower it.
    """
    reach = np.maximum(tubes.start_radius, tubes.end_radius) + canvas.pixel_mm
    low = np.minimum(tubes.start, tubes.end) - reach[:, None]
    high = np.maximum(tubes.start, tubes.end) + reach[:, None]
    touches = (high[:, 2] >= canvas.z_mm[0]) & (low[:, 2] <= canvas.z_mm[-1])
    for n in np.flatnonzero(touches):
        window = canvas.window(low[n], high[n])
        if window is not None:
            coverage = _tube_coverage(canvas, window, tubes, int(n))
            paint(canvas, window, coverage, hu, blend)


def paint(canvas: Canvas, window: Window, coverage: Hounsfield, hu: Hounsfield | float, blend: Blend = "cover") -> None:
    """Blend a value into a window by its (N, J, I) coverage in [0, 1]."""
    below = canvas.hu[window]
    if blend == "cover":
        below += coverage * (hu - below)
    elif blend == "brighten":
        np.maximum(below, LUNG_BACKGROUND_HU + coverage * (hu - LUNG_BACKGROUND_HU), out=below)
    else:
        np.minimum(below, SOFT_BACKGROUND_HU + coverage * (hu - SOFT_BACKGROUND_HU), out=below)


def coverage_of(depth_mm: Hounsfield, pixel_mm: float) -> Hounsfield:
    """Share of a voxel inside a shape, from its centre's signed depth (positive inside): a ramp one pixel wide."""
    coverage = depth_mm * np.float32(1.0 / pixel_mm)
    coverage += np.float32(0.5)
    return np.asarray(np.clip(coverage, 0.0, 1.0, out=coverage))


def _tube_coverage(canvas: Canvas, window: Window, tubes: Tubes, n: int) -> Hounsfield:
    axis = tubes.end[n] - tubes.start[n]
    length2 = max(float(axis @ axis), 1e-6)
    x, y, z = canvas.offsets(window, tubes.start[n])
    along = (x * np.float32(axis[0]) + y * np.float32(axis[1])) + z * np.float32(axis[2])
    share = np.clip(along * np.float32(1.0 / length2), 0.0, 1.0)
    distance2 = (x * x + y * y) + z * z
    distance2 += share * (share * np.float32(length2) - 2.0 * along)
    distance = np.sqrt(np.maximum(distance2, 0.0, out=distance2), out=distance2)
    r0, r1 = float(tubes.start_radius[n]), float(tubes.end_radius[n])
    coverage = coverage_of(share * np.float32(r1 - r0) + np.float32(r0) - distance, canvas.pixel_mm)
    thin = min(1.0, (r0 + r1) / canvas.pixel_mm)  # a tube thinner than a pixel fills only part of it
    return coverage if thin == 1.0 else np.asarray(coverage * np.float32(thin))


def _range(centres: FloatArray, low: float, high: float) -> slice | None:
    first = float(centres[0])
    step = float(centres[1]) - first if len(centres) > 1 else 1.0
    start = max(0, int(np.ceil((low - first) / step)))
    stop = min(len(centres), int(np.floor((high - first) / step)) + 1)
    return slice(start, stop) if start < stop else None
