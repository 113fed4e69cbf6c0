"""Bones: vertebrae with their canal, ribs that slope so that slices cut them as ovals, sternum, scapulae, clavicles."""

from __future__ import annotations

import numpy as np

from vaeseg.phantom.anatomy import Anatomy, ellipse
from vaeseg.phantom.canvas import Canvas, Hounsfield, Tubes, coverage_of, joined_tubes, paint_tubes, polyline_tubes
from vaeseg.records import FloatArray

CORTEX_HU = 620.0
MARROW_HU = 190.0
DISC_HU = 85.0
CANAL_HU = 20.0
CARTILAGE_HU = 115.0

VERTEBRA_MM = 24.0
"""From one vertebra to the next."""

RIB_PAIRS = 11


def rib_tubes(anatomy: Anatomy) -> tuple[Tubes, Tubes]:
    """Bony ribs and the cartilage that joins them to the sternum, in scanner space."""
    bones, cartilage = [], []
    for pair in range(RIB_PAIRS):
        for side in (-1.0, 1.0):
            points = _rib_points(anatomy, pair, side)
            bony = len(points) * 3 // 4
            bones.append(polyline_tubes(points[: bony + 1], np.full(bony + 1, 4.6)))
            cartilage.append(polyline_tubes(points[bony:], np.full(len(points) - bony, 4.8)))
    return joined_tubes(bones), joined_tubes(cartilage)


def girdle_tubes(anatomy: Anatomy) -> Tubes:
    """Scapulae and clavicles, in scanner space."""
    parts = []
    top = anatomy.lung_height
    for side in (-1.0, 1.0):
        width, depth = anatomy.cavity_width + anatomy.wall, anatomy.cavity_depth
        low = np.array([side * 0.72 * width, 0.80 * depth + 12, 0.52 * top])
        inner = np.array([side * 0.52 * width, 0.92 * depth + 10, 0.93 * top])
        outer = np.array([side * 1.02 * width, 0.25 * depth, 1.0 * top])
        for share in np.linspace(0, 1, 5):
            edge = inner + share * (outer - inner)
            parts.append(polyline_tubes(anatomy.to_scanner(np.stack([low, edge])), np.array([3.2, 4.2])))
        medial = np.array([side * 16, -0.62 * depth, 0.97 * top])
        lateral = np.array([side * 1.0 * width, -0.15 * depth, 1.1 * top])
        parts.append(polyline_tubes(anatomy.to_scanner(np.stack([medial, lateral])), np.array([7.0, 6.0])))
    return joined_tubes(parts)


def paint_bones(canvas: Canvas, anatomy: Anatomy) -> None:
    """Paint all bones on a slab."""
    ribs, cartilage = rib_tubes(anatomy)
    for bones in (ribs, girdle_tubes(anatomy)):
        paint_tubes(canvas, bones, CORTEX_HU, "cover")
        paint_tubes(canvas, bones.widened(0.62), MARROW_HU, "cover")
    paint_tubes(canvas, cartilage, CARTILAGE_HU, "cover")
    for n in range(len(canvas.z_mm)):
        _paint_vertebra(canvas, n, anatomy)
        _paint_sternum(canvas, n, anatomy)


def _rib_points(anatomy: Anatomy, pair: int, side: float) -> FloatArray:
    """(N, 3) centre line from the vertebra round to the sternum, in scanner space."""
    level = (1.02 - pair * 0.094) * anatomy.lung_height
    angle = np.linspace(0.10, 0.97 if pair < 8 else 0.62, 26) * np.pi
    fall = (26.0 + 8.0 * min(pair, 6)) * np.sin(0.5 * angle) ** 2
    rise = 55.0 * np.clip((angle / np.pi - 0.78) / 0.2, 0, 1) ** 2 * (pair > 3)
    z = level - fall + rise
    width, depth = anatomy.cavity_axes(np.clip(z, 0.0, 0.93 * anatomy.lung_height))
    x = side * (width + 5.5) * np.sin(angle)
    y = (depth + 5.5) * np.cos(angle) - 0.12 * (anatomy.cavity_depth - depth)
    return anatomy.to_scanner(np.stack([x, y, z], axis=1))


def _paint_vertebra(canvas: Canvas, n: int, anatomy: Anatomy) -> None:
    """One slice of the column: body or disc, canal, arch and processes."""
    z = float(canvas.z_mm[n])
    phase = (z / VERTEBRA_MM) % 1.0
    centre = anatomy.to_scanner(np.array([[0.0, anatomy.vertebra_y, z]]))[0]
    window = canvas.window(centre - [48.0, 22.0, 1e-3], centre + [48.0, 72.0, 1e-3])
    if window is None:
        return
    image = canvas.hu[window][0]
    x, y, _ = canvas.offsets(window, centre)
    x, y = x[0], y[0]
    disc = phase < 0.2
    waist = 1.0 - 0.10 * np.sin(np.pi * (phase - 0.2) / 0.8) if not disc else 1.0
    body = np.asarray(ellipse(x, y + 1.0, np.float32(18.0 * waist), np.float32(15.0 * waist)))
    _stamp(canvas, image, body, DISC_HU if disc else CORTEX_HU - 180)
    if not disc and 0.26 < phase < 0.94:
        _stamp(canvas, image, body - 2.0, MARROW_HU)
    arch = 3.4 - np.abs(np.asarray(ellipse(x, y - 22.0, np.float32(13.0), np.float32(11.5))))
    if 0.3 < phase < 0.85:
        _stamp(canvas, image, arch, CORTEX_HU - 120)
        _stamp(canvas, image, _processes(x, y), CORTEX_HU - 180)
    else:
        _stamp(canvas, image, np.minimum(arch, y - 26.0), CORTEX_HU - 200)
    _stamp(canvas, image, _spinous(x, y), CORTEX_HU - 200)
    _stamp(canvas, image, np.asarray(ellipse(x, y - 22.0, np.float32(9.5), np.float32(8.5))), CANAL_HU)


def _spinous(x: Hounsfield, y: Hounsfield) -> Hounsfield:
    return np.asarray(np.minimum(3.2 - np.abs(x), np.minimum(y - 28.0, 58.0 - y)))


def _processes(x: Hounsfield, y: Hounsfield) -> Hounsfield:
    across = np.abs(x)
    return np.asarray(np.minimum(4.5 - np.abs(y - 24.0 - 0.25 * (across - 12.0)), np.minimum(across - 11.0, 33.0 - across)))


def _paint_sternum(canvas: Canvas, n: int, anatomy: Anatomy) -> None:
    z = float(canvas.z_mm[n])
    t = z / anatomy.lung_height
    if not 0.22 < t < 0.93:
        return
    depth = float(anatomy.cavity_axes(z)[1])
    front = -depth - 0.12 * (anatomy.cavity_depth - depth) - 6.0
    centre = anatomy.to_scanner(np.array([[0.0, front, z]]))[0]
    window = canvas.window(centre - [34.0, 10.0, 1e-3], centre + [34.0, 10.0, 1e-3])
    if window is None:
        return
    image = canvas.hu[window][0]
    x, y, _ = canvas.offsets(window, centre)
    width = 14.0 + 12.0 * np.clip((t - 0.72) / 0.15, 0.0, 1.0)
    plate = np.asarray(ellipse(x[0], y[0], np.float32(width), np.float32(5.5)))
    _stamp(canvas, image, plate, CORTEX_HU - 160)
    _stamp(canvas, image, plate - 1.5, MARROW_HU - 40)


def _stamp(canvas: Canvas, image: Hounsfield, depth: Hounsfield, hu: float) -> None:
    image += coverage_of(np.array(depth), canvas.pixel_mm) * (np.float32(hu) - image)
