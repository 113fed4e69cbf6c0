"""What looks like a tumour and is none: calcified granulomas, scars, dependent atelectasis. Never in the label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vaeseg.phantom.anatomy import Anatomy
from vaeseg.phantom.canvas import Canvas, Tubes, coverage_of, joined_tubes, paint, paint_tubes, polyline_tubes
from vaeseg.phantom.tumours import Tumour
from vaeseg.records import FloatArray

ATELECTASIS_HU = -60.0

ATELECTASIS_TOP = 0.6
"""Of the lung's height: above this the lung is open to the back."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Plate:
    """A flat disc of collapsed or scarred lung, in scanner space."""

    centre: FloatArray
    """(3,) mm."""
    axes: FloatArray
    """(3, 3) rows are unit vectors; the last is the disc's normal."""
    semi_axes: FloatArray
    """(3,) mm."""
    hu: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Distractors:
    """One patient's look-alikes."""

    granulomas: Tubes
    """Round and calcified; may be empty."""
    granuloma_hu: float
    plates: tuple[Plate, ...]
    atelectasis_mm: float
    """Thickness of the dense layer along the back of the lungs; 0 for none."""


def draw_distractors(rng: np.random.Generator, anatomy: Anatomy, tumours: list[Tumour]) -> Distractors:
    """Look-alikes that keep clear of the tumours."""
    balls = [
        _ball(point, float(rng.uniform(1.0, 3.2)))
        for point in _places(rng, anatomy, tumours, int(rng.poisson(1.2)), 3.0)
    ]
    plates = tuple(_plate(rng, point) for point in _places(rng, anatomy, tumours, int(rng.poisson(1.5)), 1.0))
    return Distractors(
        granulomas=joined_tubes(balls) if balls else _ball(np.zeros(3), 0.0),
        granuloma_hu=float(rng.uniform(260, 900)),
        plates=plates,
        atelectasis_mm=float(rng.uniform(2, 9)) if rng.random() < 0.4 else 0.0,
    )


def paint_distractors(canvas: Canvas, anatomy: Anatomy, distractors: Distractors) -> None:
    """Paint them on a slab, within the lungs."""
    if distractors.atelectasis_mm > 0:
        _paint_atelectasis(canvas, anatomy, distractors.atelectasis_mm)
    for plate in distractors.plates:
        _paint_plate(canvas, anatomy, plate)
    if distractors.granulomas.start_radius.max() > 0:
        paint_tubes(canvas, distractors.granulomas, distractors.granuloma_hu, "cover")


def _places(
    rng: np.random.Generator, anatomy: Anatomy, tumours: list[Tumour], count: int, least_depth: float
) -> FloatArray:
    """Up to `count` points near the border of the lungs and away from every tumour."""
    width, depth, height = anatomy.cavity_width, anatomy.cavity_depth, anatomy.lung_height
    points = anatomy.to_scanner(rng.uniform((-width, -depth, 0), (width, depth, height), size=(400, 3)))
    inside = anatomy.lung_at(points)
    points = points[(inside > least_depth) & (inside < 18.0)]
    for tumour in tumours:
        points = points[np.linalg.norm(points - tumour.centre, axis=1) > tumour.reach_mm() + 14.0]
    return points[:count]


def _ball(point: FloatArray, radius: float) -> Tubes:
    return polyline_tubes(np.stack([point, point + 0.2]), np.array([radius, radius]))


def _plate(rng: np.random.Generator, point: FloatArray) -> Plate:
    axes = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    semi_axes = np.array([rng.uniform(8, 24), rng.uniform(5, 12), rng.uniform(0.5, 1.3)])
    return Plate(centre=point, axes=axes, semi_axes=semi_axes, hu=float(rng.uniform(-250, 30)))


def _paint_plate(canvas: Canvas, anatomy: Anatomy, plate: Plate) -> None:
    reach = float(plate.semi_axes.max())
    window = canvas.window(plate.centre - reach, plate.centre + reach)
    if window is None:
        return
    x, y, z = canvas.offsets(window, plate.centre)
    axes = plate.axes.astype(np.float32)
    p, q, thick = (x * axes[n, 0] + y * axes[n, 1] + z * axes[n, 2] for n in range(3))
    flat = np.sqrt((p / np.float32(plate.semi_axes[0])) ** 2 + (q / np.float32(plate.semi_axes[1])) ** 2)
    curved = thick + np.float32(0.006) * p * p
    depth = np.minimum(np.float32(plate.semi_axes[2]) * (1.0 - flat * flat) - np.abs(curved), (1.0 - flat) * 5.0)
    x, y, z = canvas.offsets(window, np.zeros(3))
    lung = anatomy.lung(*anatomy.to_body(x, y, z), z)
    paint(canvas, window, coverage_of(np.minimum(depth, lung), canvas.pixel_mm), plate.hu, "brighten")


def _paint_atelectasis(canvas: Canvas, anatomy: Anatomy, thickness: float) -> None:
    """A hazy layer along the back wall of the lower lungs, thickest at the base: the patient lies on the back."""
    first = int(np.searchsorted(canvas.y_mm, anatomy.offset[1] + 0.15 * anatomy.cavity_depth))
    for n in np.flatnonzero(canvas.z_mm < ATELECTASIS_TOP * anatomy.lung_height):
        z = np.float32(canvas.z_mm[n])
        x, y = anatomy.to_body(canvas.x_mm[None, :], canvas.y_mm[first:, None], z)
        reach = np.float32(thickness) * (np.float32(1.0) - z / np.float32(ATELECTASIS_TOP * anatomy.lung_height))
        to_wall = anatomy.cavity(x, y, z)
        low = np.clip(y / np.float32(0.35 * anatomy.cavity_depth) - np.float32(1.0), 0.0, 1.0)
        share = np.clip((reach - to_wall) * np.float32(0.4), 0.0, 1.0) * low * (anatomy.lung(x, y, z) > 0)
        image = canvas.hu[n, first:]
        image += share * np.float32(0.7) * (np.maximum(image, np.float32(ATELECTASIS_HU)) - image)
