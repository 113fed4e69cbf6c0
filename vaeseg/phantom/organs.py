"""The soft tissue of one slice, painted back to front: table, fat, muscle, what lies below and between the lungs, lungs."""

from __future__ import annotations

import numpy as np

from vaeseg.phantom.anatomy import Anatomy, ellipse
from vaeseg.phantom.canvas import Canvas, Hounsfield, coverage_of
from vaeseg.phantom.texture import Texture

AIR_HU = -1000.0
FAT_HU = -100.0
MUSCLE_HU = 52.0
MYOCARDIUM_HU = 45.0
LIVER_HU = 62.0
SPLEEN_HU = 50.0
TABLE_SHELL_HU = -250.0
TABLE_FOAM_HU = -920.0

TABLE_GAP_MM = 4.0
"""Mattress and air between the back and the table."""


def paint_slice(canvas: Canvas, n: int, anatomy: Anatomy, texture: Texture) -> None:
    """Paint one slice of the slab from air to lungs.

    Args:
        canvas: slice `n` of it is overwritten.
        n: index into the slab.
        anatomy: whose thorax.
        texture: how its tissue varies.
    """
    z = np.float32(canvas.z_mm[n])
    image = canvas.hu[n]
    x, y = anatomy.to_body(canvas.x_mm[None, :], canvas.y_mm[:, None], z)
    field = texture.at(float(z))
    image[...] = AIR_HU
    _paint_table(canvas, image, anatomy)
    _paint_wall(canvas, image, anatomy, x, y, z, field)
    _paint_inside(canvas, image, anatomy, x, y, z, field)


def _paint_table(canvas: Canvas, image: Hounsfield, anatomy: Anatomy) -> None:
    back = anatomy.offset[1] + anatomy.cavity_depth + anatomy.wall + 0.75 * anatomy.fat + TABLE_GAP_MM
    rows = canvas.y_mm > back - 45.0
    if not rows.any():
        return
    part = image[rows]
    x, y = canvas.x_mm[None, :], canvas.y_mm[rows][:, None]
    top = y - np.float32(back) + (x * x) * np.float32(1 / 1100.0)  # a shallow trough
    thickness = 34.0 - np.abs(x) * np.float32(0.09)
    inside = np.minimum(np.minimum(top, thickness - top), 212.0 - np.abs(x))
    _cover(part, coverage_of(inside, canvas.pixel_mm), TABLE_SHELL_HU)
    _cover(part, coverage_of(inside - 2.2, canvas.pixel_mm), TABLE_FOAM_HU)
    image[rows] = part


def _paint_wall(
    canvas: Canvas, image: Hounsfield, anatomy: Anatomy, x: Hounsfield, y: Hounsfield, z: np.float32, field: Hounsfield
) -> None:
    """Skin, fat and muscle."""
    width, depth = anatomy.skin_axes(z)
    skin = _superellipse(x, y, width, depth)
    if anatomy.breasts > 0:
        skin = np.maximum(skin, _breasts(anatomy, x, y, z))
    _cover(image, coverage_of(skin, canvas.pixel_mm), 10.0)
    _cover(image, coverage_of(skin - 1.6, canvas.pixel_mm), FAT_HU + 9.0 * field)
    fat = 0.55 * anatomy.fat
    muscle = _superellipse(x, y, width - anatomy.fat, depth - fat)
    _cover(image, coverage_of(muscle + 1.2 * field, canvas.pixel_mm), MUSCLE_HU + 7.0 * field)
    layer = 1.6 - np.abs(muscle - 9.0 - 2.5 * field)  # fat between two sheets of muscle
    _cover(image, 0.75 * coverage_of(layer, canvas.pixel_mm), FAT_HU)


def _paint_inside(
    canvas: Canvas, image: Hounsfield, anatomy: Anatomy, x: Hounsfield, y: Hounsfield, z: np.float32, field: Hounsfield
) -> None:
    """Everything within the chest cavity."""
    cavity = anatomy.cavity(x, y, z)
    rows, columns = _extent(cavity > -2.0)
    if rows.start == rows.stop:
        return
    image, field = image[rows, columns], field[rows, columns]
    x, y, cavity = x[rows, columns], y[rows, columns], cavity[rows, columns]
    _cover(image, coverage_of(cavity, canvas.pixel_mm), FAT_HU + 10.0 * field)
    _paint_abdomen(canvas, image, anatomy, x, y, z, cavity, field)
    _paint_heart(canvas, image, anatomy, x, y, z, field)
    lung = anatomy.lung(x, y, z)
    tissue = anatomy.lung_hu + 16.0 * field + 0.25 * y  # blood sinks to the back of a patient who lies on it
    _cover(image, coverage_of(lung, canvas.pixel_mm), tissue)
    _paint_fissures(canvas, image, anatomy, x, y, z, lung)


def _paint_abdomen(
    canvas: Canvas,
    image: Hounsfield,
    anatomy: Anatomy,
    x: Hounsfield,
    y: Hounsfield,
    z: np.float32,
    cavity: Hounsfield,
    field: Hounsfield,
) -> None:
    """Liver, spleen and stomach under the domes."""
    if z > max(anatomy.dome_left, anatomy.dome_right) + 4:
        return
    below = np.minimum(-anatomy.above_diaphragm(x, y, z) - 1.0, cavity - 1.0)
    enhanced = 0.28 * max(0.0, anatomy.blood_hu - 45.0)
    liver = np.minimum(below, 14.0 - x - 0.2 * y)
    _cover(image, coverage_of(liver, canvas.pixel_mm), LIVER_HU + enhanced + 6.0 * field)
    spleen = np.minimum(below, ellipse(x - 0.72 * anatomy.cavity_width, y - 30.0, 34.0, 44.0))
    _cover(image, coverage_of(spleen, canvas.pixel_mm), SPLEEN_HU + 1.2 * enhanced + 6.0 * field)
    stomach = np.minimum(below - 4.0, ellipse(x - 0.45 * anatomy.cavity_width, y + 18.0, 36.0, 30.0))
    _cover(image, coverage_of(stomach, canvas.pixel_mm), 30.0)
    gas = np.minimum(stomach - 3.0, -28.0 - y)  # gas floats to the front
    _cover(image, coverage_of(gas, canvas.pixel_mm), -960.0)


def _paint_heart(
    canvas: Canvas, image: Hounsfield, anatomy: Anatomy, x: Hounsfield, y: Hounsfield, z: np.float32, field: Hounsfield
) -> None:
    heart = anatomy.heart(x, y, z)
    if float(heart.max()) < -1.0:
        return
    _cover(image, coverage_of(heart, canvas.pixel_mm), MYOCARDIUM_HU + 0.35 * max(0.0, anatomy.blood_hu - 45.0))
    septum = 0.57 * (x - 20.0) + 0.82 * (y + 0.2 * anatomy.cavity_depth) + 5.0 * field
    chambers = np.minimum(heart - 9.0, np.abs(septum) - 5.0)
    _cover(image, coverage_of(chambers, canvas.pixel_mm), anatomy.blood_hu + 4.0 * field)


def _paint_fissures(
    canvas: Canvas, image: Hounsfield, anatomy: Anatomy, x: Hounsfield, y: Hounsfield, z: np.float32, lung: Hounsfield
) -> None:
    """The oblique fissure of each lung: a thin sheet that falls from the back to the front."""
    sheet = 0.62 * (z - 0.5 * anatomy.lung_height) + 0.78 * y + 6.0 * np.sin(x * np.float32(0.03))
    line = np.minimum(0.35 - np.abs(sheet), lung)
    _cover(image, coverage_of(line, canvas.pixel_mm) * np.float32(min(1.0, 0.9 / canvas.pixel_mm) * 0.35), -450.0)


def _breasts(anatomy: Anatomy, x: Hounsfield, y: Hounsfield, z: np.float32) -> Hounsfield:
    height = float((z - 0.38 * anatomy.lung_height) / 62.0)
    reach = anatomy.breasts * np.sqrt(max(0.0, 1.0 - height * height))
    front = anatomy.cavity_depth + 0.5 * anatomy.wall
    across = (np.abs(x) - 0.58 * anatomy.cavity_width) / np.float32(58.0)
    bulge = (1.0 - across * across) * np.float32(reach)
    return np.asarray(np.where(bulge > 2.0, np.minimum(y + front + anatomy.wall * 0.5 + bulge, -y), -100.0))


def _superellipse(x: Hounsfield, y: Hounsfield, width: np.float32, depth: np.float32) -> Hounsfield:
    """Signed depth in a body outline, flatter in front and behind than an ellipse."""
    p, q = x * np.float32(1 / width), y * np.float32(1 / depth)
    p *= p
    q *= q
    radius = np.sqrt(np.sqrt(p * p + q * q + 1.3 * p * q))
    return np.asarray((1.0 - radius) * np.float32(min(width, depth)))


def _extent(inside: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if len(rows) == 0:
        return slice(0, 0), slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _cover(image: Hounsfield, coverage: Hounsfield, hu: Hounsfield | float) -> None:
    image += coverage * (hu - image)
