"""The soft tissue of one slice, painted back to front: table, fat, muscle, what lies below and between the lungs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vaeseg.phantom.anatomy import Anatomy, ellipse, superellipse
from vaeseg.phantom.canvas import Canvas, Hounsfield, coverage_of
from vaeseg.phantom.texture import Texture
from vaeseg.records import BoolArray

AIR_HU = -1000.0
SKIN_HU = 10.0
FAT_HU = -100.0
MUSCLE_HU = 52.0
MYOCARDIUM_HU = 45.0
LIVER_HU = 62.0
SPLEEN_HU = 50.0
STOMACH_HU = 30.0
GAS_HU = -960.0
FISSURE_HU = -450.0
TABLE_SHELL_HU = -250.0
TABLE_FOAM_HU = -920.0

TABLE_GAP_MM = 4.0
"""Mattress and air between the back and the table."""

UNENHANCED_HU = 45.0
"""Blood above this has contrast in it, and organs take up a share."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Plane:
    """One slice, or a cut-out of it, with the body coordinates of its pixels."""

    anatomy: Anatomy
    image: Hounsfield
    """(J, I) HU, painted in place."""
    x: Hounsfield
    y: Hounsfield
    z: np.float32
    field: Hounsfield
    """(J, I) fine unevenness of tissue."""
    coarse: Hounsfield
    """(J, I) smooth unevenness of tissue."""
    pixel_mm: float

    def cover(self, depth: Any, hu: Hounsfield | float, share: float = 1.0) -> None:
        """Paint a shape by its signed depth in mm."""
        coverage = coverage_of(np.array(depth, dtype=np.float32), self.pixel_mm)
        if share != 1.0:
            coverage *= np.float32(share)
        self.image[...] += coverage * (hu - self.image)

    def cropped(self, inside: BoolArray) -> _Plane | None:
        """The smallest cut-out that holds all of a region; None for an empty region."""
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        if len(rows) == 0:
            return None
        part = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
        return _Plane(
            anatomy=self.anatomy,
            image=self.image[part],
            x=self.x[part],
            y=self.y[part],
            z=self.z,
            field=self.field[part],
            coarse=self.coarse[part],
            pixel_mm=self.pixel_mm,
        )


def paint_slice(canvas: Canvas, n: int, anatomy: Anatomy, texture: Texture) -> None:
    """Paint one slice of the slab from air to lungs.

    Args:
        canvas: slice `n` of it is overwritten.
        n: index into the slab.
        anatomy: whose thorax.
        texture: how its tissue varies.
    """
    canvas.hu[n] = AIR_HU
    _paint_table(canvas, n, anatomy)
    plane = _plane(canvas, n, anatomy, texture)
    _paint_wall(plane)
    inside = plane.cropped(anatomy.cavity(plane.x, plane.y, plane.z) > -2.0)
    if inside is not None:
        _paint_abdomen(inside)
        _paint_heart(inside)
        _paint_lungs(inside)


def _plane(canvas: Canvas, n: int, anatomy: Anatomy, texture: Texture) -> _Plane:
    z = np.float32(canvas.z_mm[n])
    x, y = anatomy.to_body(canvas.x_mm[None, :], canvas.y_mm[:, None], z)
    return _Plane(
        anatomy=anatomy,
        image=canvas.hu[n],
        x=x,
        y=y,
        z=z,
        field=texture.at(float(z)),
        coarse=texture.coarse(float(z)),
        pixel_mm=canvas.pixel_mm,
    )


def _paint_table(canvas: Canvas, n: int, anatomy: Anatomy) -> None:
    """A shallow trough: a thin shell round foam."""
    back = np.float32(anatomy.offset[1] + anatomy.back_y + TABLE_GAP_MM)
    first = int(np.searchsorted(canvas.y_mm, back - 45.0))
    x, y = canvas.x_mm[None, :], canvas.y_mm[first:, None]
    top = y - back + (x * x) * np.float32(1 / 1100.0)
    thickness = 34.0 - np.abs(x) * np.float32(0.09)
    inside = np.minimum(np.minimum(top, thickness - top), 212.0 - np.abs(x))
    part = canvas.hu[n, first:]
    part += coverage_of(inside.copy(), canvas.pixel_mm) * (TABLE_SHELL_HU - part)
    part += coverage_of(inside - 2.2, canvas.pixel_mm) * (TABLE_FOAM_HU - part)


def _paint_wall(plane: _Plane) -> None:
    """Skin, fat and sheets of muscle."""
    anatomy = plane.anatomy
    width, depth = anatomy.skin_axes(plane.z)
    y = plane.y - anatomy.skin_shift
    skin = superellipse(plane.x, y, width, depth)
    if anatomy.breasts > 0:
        skin = np.maximum(skin, _breasts(plane))
    plane.cover(skin, SKIN_HU)
    plane.cover(skin - 1.6, FAT_HU + 9.0 * plane.field)
    muscle = superellipse(plane.x, y, width - anatomy.fat, depth - 0.55 * anatomy.fat) + 1.5 * plane.coarse
    plane.cover(muscle, MUSCLE_HU + 7.0 * plane.field)
    sheet = np.minimum(1.3 - np.abs(muscle - 8.0 - 2.0 * plane.coarse), 4.0 * (plane.coarse + 0.4))
    plane.cover(sheet, FAT_HU, 0.8)
    _paint_armpits(plane)


def _paint_armpits(plane: _Plane) -> None:
    """Fat between chest and shoulder, where the upper slices are widest."""
    anatomy = plane.anatomy
    t = float(plane.z) / anatomy.lung_height
    size = float(np.clip((t - 0.55) / 0.3, 0.0, 1.0))
    if size < 0.1:
        return
    outward = anatomy.cavity_width + 0.5 * anatomy.wall + 6.0
    fat = ellipse(np.abs(plane.x) - outward, plane.y - 6.0, 17.0 * size, 42.0 * size)
    plane.cover(fat + 3.0 * plane.coarse, FAT_HU + 10.0 * plane.field)


def _breasts(plane: _Plane) -> Hounsfield:
    anatomy = plane.anatomy
    height = float((plane.z - 0.38 * anatomy.lung_height) / 66.0)
    size = float(np.sqrt(max(0.0, 1.0 - height * height)))
    if size < 0.2:
        return np.full_like(plane.x, -100.0)
    front = plane.y + anatomy.cavity_depth - anatomy.skin_shift
    forward = (anatomy.breasts + anatomy.wall + 0.75 * anatomy.fat) * size
    return np.asarray(ellipse(np.abs(plane.x) - 0.55 * anatomy.cavity_width, front, 62.0 * size, forward))


def _paint_abdomen(plane: _Plane) -> None:
    """Fat of the cavity; liver, spleen and stomach under the domes."""
    anatomy, x, y = plane.anatomy, plane.x, plane.y
    cavity = anatomy.cavity(x, y, plane.z)
    plane.cover(cavity, FAT_HU + 10.0 * plane.field)
    if plane.z > max(anatomy.dome_left, anatomy.dome_right) + 4:
        return
    below = np.minimum(-anatomy.above_diaphragm(x, y, plane.z) - 1.0, cavity - 1.0)
    enhanced = 0.28 * max(0.0, anatomy.blood_hu - UNENHANCED_HU)
    left = 0.01 * anatomy.cavity_width
    plane.cover(np.minimum(below, 14.0 - x - 0.2 * y + 4.0 * plane.coarse), LIVER_HU + enhanced + 6.0 * plane.field)
    spleen = np.minimum(below, ellipse(x - 68.0 * left, y - 26.0, 42.0, 52.0) + 2.0 * plane.coarse)
    plane.cover(spleen, SPLEEN_HU + 1.2 * enhanced + 6.0 * plane.field)
    stomach = np.minimum(below - 3.0, ellipse(x - 46.0 * left, y + 20.0, 46.0, 40.0) + 3.0 * plane.coarse)
    plane.cover(stomach, STOMACH_HU + 12.0 * plane.coarse)
    plane.cover(np.minimum(stomach - 3.0, -34.0 - y), GAS_HU)  # gas floats to the front


def _paint_heart(plane: _Plane) -> None:
    anatomy = plane.anatomy
    heart = anatomy.heart(plane.x, plane.y, plane.z)
    if float(heart.max()) < -1.0:
        return
    enhanced = max(0.0, anatomy.blood_hu - UNENHANCED_HU)
    plane.cover(heart, MYOCARDIUM_HU + 0.35 * enhanced + 4.0 * plane.field)
    septum = 0.57 * (plane.x - 20.0) + 0.82 * (plane.y + 0.2 * anatomy.cavity_depth) + 3.0 * plane.coarse
    chambers = np.minimum(heart - 8.0 - 2.0 * plane.coarse, np.abs(septum) - 4.0)
    plane.cover(chambers, anatomy.blood_hu + 4.0 * plane.field)


def _paint_lungs(plane: _Plane) -> None:
    """Both lungs, denser towards the back, each with its oblique fissure."""
    anatomy = plane.anatomy
    lung = anatomy.lung(plane.x, plane.y, plane.z)
    tissue = anatomy.lung_hu + 16.0 * plane.field + 12.0 * plane.coarse + 0.25 * plane.y
    plane.cover(lung, tissue)
    lower = np.float32(0.62) * (plane.z - np.float32(0.5 * anatomy.lung_height))
    sheet = lower + 0.78 * plane.y + 6.0 * np.sin(plane.x * np.float32(0.03))
    line = np.minimum(0.35 - np.abs(sheet), lung)
    plane.cover(line, FISSURE_HU, 0.35 * min(1.0, 0.9 / plane.pixel_mm))
