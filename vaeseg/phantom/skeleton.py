"""Bones: vertebrae with their canal, ribs that slope so that slices cut them as ovals, sternum, scapulae, clavicles."""

from __future__ import annotations

from typing import Any

import numpy as np

from vaeseg.phantom.anatomy import FULLNESS, Anatomy, ellipse
from vaeseg.phantom.canvas import Canvas, Hounsfield, Tubes, coverage_of, joined_tubes, paint_tubes, polyline_tubes
from vaeseg.records import FloatArray

CORTEX_HU = 620.0
MARROW_HU = 190.0
SCAPULA_HU = 330.0
ARCH_HU = 480.0
DISC_HU = 85.0
CANAL_HU = 20.0
CARTILAGE_HU = 115.0

VERTEBRA_MM = 24.0
"""From one vertebra to the next."""

DISC_SHARE = 0.2
"""Of that distance."""

RIB_PAIRS = 12

SCAPULA_LAYERS = 40
"""A shoulder blade is a stack of this many level tubes, so that it is a plate in any slice."""


def paint_bones(canvas: Canvas, anatomy: Anatomy) -> None:
    """Paint all bones on a slab."""
    ribs, cartilage = rib_tubes(anatomy)
    paint_tubes(canvas, scapula_tubes(anatomy), SCAPULA_HU, "cover")
    for bones in (ribs, clavicle_tubes(anatomy)):
        paint_tubes(canvas, bones, CORTEX_HU, "cover")
        paint_tubes(canvas, bones.widened(0.62), MARROW_HU, "cover")
    paint_tubes(canvas, cartilage, CARTILAGE_HU, "cover")
    for n in range(len(canvas.z_mm)):
        _paint_vertebra(canvas, n, anatomy)
        _paint_sternum(canvas, n, anatomy)


def rib_tubes(anatomy: Anatomy) -> tuple[Tubes, Tubes]:
    """Bony ribs and the cartilage that joins them to the sternum, in scanner space."""
    bones, cartilage = [], []
    for pair in range(RIB_PAIRS):
        for side in (-1.0, 1.0):
            points = _rib_points(anatomy, pair, side)
            bony = len(points) * 3 // 4
            bones.append(polyline_tubes(points[: bony + 1], np.full(bony + 1, 4.8)))
            cartilage.append(polyline_tubes(points[bony:], np.full(len(points) - bony, 4.8)))
    return joined_tubes(bones), joined_tubes(cartilage)


def scapula_tubes(anatomy: Anatomy) -> Tubes:
    """Both shoulder blades, in scanner space."""
    top, depth = anatomy.lung_height, anatomy.cavity_depth
    width = anatomy.cavity_width + anatomy.wall
    parts = []
    for side in (-1.0, 1.0):
        low = np.array([side * 0.74 * width, 0.72 * depth + 14, 0.54 * top])
        inner = np.array([side * 0.54 * width, 0.90 * depth + 14, 0.95 * top])
        outer = np.array([side * 1.04 * width, 0.30 * depth, 1.0 * top])
        for share in np.linspace(0.05, 1.0, SCAPULA_LAYERS):
            layer = anatomy.to_scanner(np.linspace(low + share * (inner - low), low + share * (outer - low), 3))
            parts.append(polyline_tubes(layer, np.array([3.4, 2.4, 4.6])))
    return joined_tubes(parts)


def clavicle_tubes(anatomy: Anatomy) -> Tubes:
    """Both collar bones, in scanner space."""
    width, depth, top = anatomy.cavity_width + anatomy.wall, anatomy.cavity_depth, anatomy.lung_height
    parts = []
    for side in (-1.0, 1.0):
        medial = np.array([side * 16, -0.62 * depth, 0.97 * top])
        lateral = np.array([side * 1.0 * width, -0.15 * depth, 1.1 * top])
        parts.append(polyline_tubes(anatomy.to_scanner(np.linspace(medial, lateral, 4)), np.linspace(7.0, 6.0, 4)))
    return joined_tubes(parts)


def _rib_points(anatomy: Anatomy, pair: int, side: float) -> FloatArray:
    """(N, 3) centre line from the vertebra round to the sternum, in scanner space."""
    level = (1.06 - pair * 0.088) * anatomy.lung_height
    angle = np.linspace(0.10, 0.97 if pair < 8 else 0.62, 30) * np.pi
    fall = (34.0 + 9.0 * min(pair, 6)) * np.sin(0.5 * angle) ** 2
    rise = 50.0 * np.clip((angle / np.pi - 0.78) / 0.2, 0, 1) ** 2 * (pair > 3)
    z = level - fall + rise
    width, depth = anatomy.cavity_axes(np.clip(z, 0.0, 0.93 * anatomy.lung_height))
    sine2, cosine2 = np.sin(angle) ** 2, np.cos(angle) ** 2
    out = (sine2**2 + cosine2**2 + FULLNESS * sine2 * cosine2) ** -0.25  # follows the cavity's fuller corners
    x = side * (out * width + 5.8) * np.sin(angle)
    y = (out * depth + 5.8) * np.cos(angle) - 0.12 * (anatomy.cavity_depth - depth)
    return anatomy.to_scanner(np.stack([x, y, z], axis=1))


def _paint_vertebra(canvas: Canvas, n: int, anatomy: Anatomy) -> None:
    """One slice of the column: body or disc, arch, processes, canal."""
    z = float(canvas.z_mm[n])
    phase = (z / VERTEBRA_MM) % 1.0
    cut_out = _cut_out(canvas, n, anatomy, anatomy.vertebra_y, (42.0, 54.0))
    if cut_out is None:
        return
    image, x, y = cut_out
    disc = phase < DISC_SHARE
    waist = 1.0 if disc else 1.0 - 0.10 * float(np.sin(np.pi * (phase - DISC_SHARE) / (1 - DISC_SHARE)))
    body = ellipse(x, y + 1.0, 18.0 * waist, 15.0 * waist)
    _stamp(canvas, image, body, DISC_HU if disc else CORTEX_HU - 180)
    if DISC_SHARE + 0.06 < phase < 0.94:
        _stamp(canvas, image, body - 2.0, MARROW_HU)
    arch = 3.2 - np.abs(ellipse(x, y - 21.0, 12.5, 11.0))
    if 0.3 < phase < 0.85:
        _stamp(canvas, image, np.maximum(arch, _processes(x, y)), ARCH_HU)
    else:
        _stamp(canvas, image, np.minimum(arch, y - 25.0), ARCH_HU)
    _stamp(canvas, image, np.minimum(3.0 - np.abs(x), np.minimum(y - 28.0, 46.0 - y)), ARCH_HU)
    _stamp(canvas, image, ellipse(x, y - 21.0, 9.5, 8.5), CANAL_HU)


def _processes(x: Hounsfield, y: Hounsfield) -> Any:
    """Transverse processes, which point outward and back."""
    across = np.abs(x)
    return np.minimum(4.2 - np.abs(y - 22.0 - 0.35 * (across - 12.0)), np.minimum(across - 10.0, 31.0 - across))


def _paint_sternum(canvas: Canvas, n: int, anatomy: Anatomy) -> None:
    z = float(canvas.z_mm[n])
    t = z / anatomy.lung_height
    if not 0.22 < t < 0.93:
        return
    depth = float(anatomy.cavity_axes(z)[1])
    cut_out = _cut_out(canvas, n, anatomy, -depth - 0.12 * (anatomy.cavity_depth - depth) - 6.0, (34.0, 10.0))
    if cut_out is None:
        return
    image, x, y = cut_out
    plate = ellipse(x, y, 14.0 + 12.0 * float(np.clip((t - 0.72) / 0.15, 0.0, 1.0)), 5.5)
    _stamp(canvas, image, plate, CORTEX_HU - 160)
    _stamp(canvas, image, plate - 1.5, MARROW_HU - 40)


def _cut_out(
    canvas: Canvas, n: int, anatomy: Anatomy, body_y: float, reach: tuple[float, float]
) -> tuple[Hounsfield, Hounsfield, Hounsfield] | None:
    """Image and x, y offsets of a rectangle about a point of the midline; None when it is not in the slice."""
    z = float(canvas.z_mm[n])
    centre = anatomy.to_scanner(np.array([[0.0, body_y, z]]))[0]
    margin = np.array([*reach, 1e-3])
    window = canvas.window(centre - margin, centre + margin)
    if window is None:
        return None
    x, y, _ = canvas.offsets(window, centre)
    return canvas.hu[window][0], x[0], y[0]


def _stamp(canvas: Canvas, image: Hounsfield, depth: Any, hu: float) -> None:
    image += coverage_of(np.array(depth, dtype=np.float32), canvas.pixel_mm) * (np.float32(hu) - image)
