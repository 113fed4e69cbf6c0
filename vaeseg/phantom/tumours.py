"""Tumours: their shape, how they are painted and the mask that is their label."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from vaeseg.phantom.anatomy import Anatomy
from vaeseg.phantom.canvas import Canvas, Hounsfield, Tubes, Window, coverage_of, paint, paint_tubes
from vaeseg.records import BoolArray, FloatArray


class TumourKind(StrEnum):
    """What a tumour looks like and where it grows."""

    SOLID = "solid"
    SPICULATED = "spiculated"
    GROUND_GLASS = "ground_glass"
    PLEURAL = "pleural"
    MEDIASTINAL = "mediastinal"


WALL_MARGIN_MM = 0.5
"""A tumour reaches this far out of the lung, so that no rim of air parts it from the wall that it grows on."""

WAVES = (
    (0.41, 0.23, 0.31, 0.3),
    (-0.27, 0.52, 0.12, 1.9),
    (0.63, -0.44, 0.35, 4.1),
    (0.18, 0.77, -0.52, 2.6),
    (-0.95, 0.33, 0.61, 5.2),
    (0.72, 0.89, 0.44, 0.8),
    (1.31, -0.57, -0.83, 3.3),
)
"""Wave vectors (per mm) and phases whose sum is uneven in no direction's rhythm."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tumour:
    """One tumour in scanner space: an ellipsoid whose radius varies smoothly with direction."""

    kind: TumourKind
    diameter_mm: float
    """Of the sphere with the same volume, before the lung's border cuts it."""
    centre: FloatArray
    """(3,) x, y, z mm."""
    rotation: FloatArray
    """(3, 3) rows are the ellipsoid's axes."""
    semi_axes: FloatArray
    """(3,) mm."""
    lobes: FloatArray
    """(M, 5): direction (3), amplitude, sharpness of each bulge or dent."""
    hu: float
    texture: float
    """How uneven its inside is, HU."""
    spicules: Tubes | None
    """Fine strands into the lung, about a voxel thick: painted, but not part of the label."""

    def reach_mm(self) -> float:
        """Radius of a ball about the centre that holds the whole tumour."""
        return float(self.semi_axes.max() * (1.0 + np.abs(self.lobes[:, 3]).sum()))

    def depth(self, x: Hounsfield, y: Hounsfield, z: Hounsfield) -> Hounsfield:
        """Signed depth in mm (positive inside) at offsets from the centre that broadcast."""
        axes = self.rotation.astype(np.float32)
        u, v, w = (
            (x * axes[row, 0] + y * axes[row, 1] + z * axes[row, 2]) * np.float32(1.0 / self.semi_axes[row])
            for row in range(3)
        )
        radius = np.sqrt(u * u + v * v + w * w) + np.float32(1e-6)
        surface = relative_radius(u / radius, v / radius, w / radius, self.lobes)
        return np.asarray((surface - radius) * np.float32(self.semi_axes.min()))


def paint_tumour(canvas: Canvas, anatomy: Anatomy, tumour: Tumour) -> None:
    """Paint a tumour on a slab, over what was there; ground glass lets denser things show through."""
    if tumour.spicules is not None:
        paint_tubes(canvas, tumour.spicules, tumour.hu - 60.0, "brighten")
    found = _depth_in(canvas, anatomy, tumour)
    if found is None:
        return
    window, depth = found
    uneven = np.float32(tumour.texture) * _waves(canvas, window)
    coverage = coverage_of(depth, canvas.pixel_mm)
    if tumour.kind is TumourKind.GROUND_GLASS:
        paint(canvas, window, coverage, np.maximum(tumour.hu + uneven, canvas.hu[window]))
    else:
        paint(canvas, window, coverage, tumour.hu + uneven)


def label_tumour(canvas: Canvas, anatomy: Anatomy, tumour: Tumour, label: BoolArray) -> int:
    """Set the voxels of (N, J, I) `label` whose centre lies inside the tumour; return their number."""
    found = _depth_in(canvas, anatomy, tumour)
    if found is None:
        return 0
    window, depth = found
    inside = depth > 0
    label[window] |= inside
    return int(inside.sum())


def _depth_in(canvas: Canvas, anatomy: Anatomy, tumour: Tumour) -> tuple[Window, Hounsfield] | None:
    """The window around a tumour and the depth inside the tumour and the lung there."""
    reach = tumour.reach_mm() + canvas.pixel_mm
    window = canvas.window(tumour.centre - reach, tumour.centre + reach)
    if window is None:
        return None
    depth = tumour.depth(*canvas.offsets(window, tumour.centre))
    x, y, z = canvas.offsets(window, np.zeros(3))
    lung = anatomy.lung(*anatomy.to_body(x, y, z), z)
    return window, np.minimum(depth, lung + np.float32(WALL_MARGIN_MM))


def relative_radius(u: FloatArray, v: FloatArray, w: FloatArray, lobes: FloatArray) -> Hounsfield:
    """Radius of the surface against the plain ellipsoid's: 1 plus smooth bulges and dents, at least 0.3.

    Args:
        u, v, w: unit directions in the ellipsoid's own frame; shapes that broadcast.
        lobes: (M, 5) as in `Tumour`.

    Returns:
        float32 of the broadcast shape.
    """
    surface = np.ones(np.broadcast_shapes(u.shape, v.shape, w.shape), dtype=np.float32)
    for a, b, c, amplitude, sharpness in lobes.astype(np.float32):
        cosine = u * a + v * b + w * c
        surface += amplitude * np.exp(sharpness * (cosine - np.float32(1.0)))
    return np.maximum(surface, np.float32(0.3))


def _waves(canvas: Canvas, window: Window) -> Hounsfield:
    """An uneven field in about [-1, 1] over a window, the same wherever the slab begins."""
    x, y, z = canvas.offsets(window, np.zeros(3))
    field = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), dtype=np.float32)
    for a, b, c, phase in WAVES:
        field += np.sin(x * np.float32(a) + y * np.float32(b) + (z * np.float32(c) + np.float32(phase)))
    return field * np.float32(1 / len(WAVES) ** 0.5)
