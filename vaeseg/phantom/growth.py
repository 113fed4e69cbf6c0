"""Drawing tumours: how many, of which kind and size, where in the lungs, and with what surface."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vaeseg.phantom.anatomy import Anatomy
from vaeseg.phantom.canvas import Tubes
from vaeseg.phantom.tumours import Tumour, TumourKind, relative_radius
from vaeseg.records import BoolArray, FloatArray

KIND_SHARES = {
    TumourKind.SOLID: 0.32,
    TumourKind.SPICULATED: 0.24,
    TumourKind.GROUND_GLASS: 0.14,
    TumourKind.PLEURAL: 0.17,
    TumourKind.MEDIASTINAL: 0.13,
}
"""Of all tumours."""

COUNT_SHARES = (0.36, 0.30, 0.20, 0.14)
"""Of patients with 1, 2, 3 and 4 tumours, among those who have any."""

TYPICAL_MM = 20.0
"""Median diameter."""

SMALLEST_MM = 3.0
"""Least diameter."""

LARGEST_MM = 60.0
"""Greatest diameter."""

SMOOTH_LOBES = 6
"""Broad bulges and dents of every tumour."""

SHARP_LOBES = 10
"""Narrow ones of a spiculated tumour."""

SMALLEST_GROUND_GLASS_MM = 8.0
"""Smaller hazes cannot be told from noise."""

LEAST_INSIDE = {True: 0.45, False: 0.92}
"""Share of a tumour's volume that must lie in the lung: attached ones are cut off by the wall they grow on."""

CANDIDATES = 60
"""Places tried for one tumour before it is made smaller."""


MOST_SHRINKING = 60
"""Tries to place one tumour; 60 mm shrink to the smallest in 19."""


def draw_tumours(rng: np.random.Generator, anatomy: Anatomy, tumour_free_share: float, most: int) -> list[Tumour]:
    """Draw the tumours of one patient.

    Args:
        rng: every draw comes from it.
        anatomy: whose lungs they grow in.
        tumour_free_share: probability of none at all.
        most: most tumours, 0 to 4.

    Returns:
        None, or 1 to `most` tumours that do not touch each other, in scanner space.
    """
    if most == 0 or rng.random() < tumour_free_share:
        return []
    shares = np.array(COUNT_SHARES[:most])
    wanted = 1 + int(rng.choice(len(shares), p=shares / shares.sum()))
    tumours: list[Tumour] = []
    for _ in range(wanted):
        tumour = _draw_tumour(rng, anatomy, tumours)
        if tumour is not None:
            tumours.append(tumour)
    return tumours


def _draw_tumour(rng: np.random.Generator, anatomy: Anatomy, others: list[Tumour]) -> Tumour | None:
    """A tumour that has a place, smaller each time that there is none; None where even small ones have none."""
    kinds = list(KIND_SHARES)
    kind = kinds[int(rng.choice(len(kinds), p=list(KIND_SHARES.values())))]
    least = SMALLEST_GROUND_GLASS_MM if kind is TumourKind.GROUND_GLASS else SMALLEST_MM
    diameter = float(np.clip(np.exp(rng.normal(np.log(TYPICAL_MM), 0.5)), least, LARGEST_MM))
    for _ in range(MOST_SHRINKING):
        tumour = _shape(rng, kind, diameter)
        centre = _place(rng, anatomy, tumour, others)
        if centre is not None:
            strands = _spicules(rng, tumour, centre) if kind is TumourKind.SPICULATED else None
            return replace(tumour, centre=centre, spicules=strands)
        diameter = max(SMALLEST_MM, 0.85 * diameter)
    return None


def _shape(rng: np.random.Generator, kind: TumourKind, diameter: float) -> Tumour:
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    axes = np.exp(rng.normal(0, 0.14, 3))
    n_lobes = SMOOTH_LOBES + (SHARP_LOBES if kind is TumourKind.SPICULATED else 0)
    directions = rng.standard_normal((n_lobes, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    amplitude = rng.normal(0, 0.11, n_lobes)
    sharpness = rng.uniform(1.5, 5.0, n_lobes)
    if kind is TumourKind.SPICULATED:
        amplitude[SMOOTH_LOBES:] = rng.uniform(0.10, 0.30, SHARP_LOBES)
        sharpness[SMOOTH_LOBES:] = rng.uniform(12.0, 40.0, SHARP_LOBES)
    lobes = np.column_stack([directions, amplitude, sharpness])
    axes *= 0.5 * diameter / (np.prod(axes) * _mean_cubed(lobes)) ** (1 / 3)
    hu = rng.uniform(-650, -350) if kind is TumourKind.GROUND_GLASS else rng.uniform(0, 60)
    return Tumour(
        kind=kind,
        diameter_mm=diameter,
        centre=np.zeros(3),
        rotation=rotation,
        semi_axes=axes,
        lobes=lobes,
        hu=float(hu),
        texture=28.0 if kind is TumourKind.GROUND_GLASS else 9.0,
        spicules=None,
    )


def _place(rng: np.random.Generator, anatomy: Anatomy, tumour: Tumour, others: list[Tumour]) -> FloatArray | None:
    """A centre that suits the kind, or None after `CANDIDATES` tries."""
    width, depth, height = anatomy.cavity_width, anatomy.cavity_depth, anatomy.lung_height
    body = rng.uniform((-width, -depth, 0.03 * height), (width, depth, 0.97 * height), size=(40 * CANDIDATES, 3))
    points = anatomy.to_scanner(body)
    points = points[_suits(anatomy, points, tumour)][:CANDIDATES]
    attached = tumour.kind in (TumourKind.PLEURAL, TumourKind.MEDIASTINAL)
    for point in points:
        apart = all(
            np.linalg.norm(point - other.centre) > tumour.reach_mm() + other.reach_mm() + 3.0 for other in others
        )
        if apart and _share_in_lung(anatomy, tumour, point) >= LEAST_INSIDE[attached]:
            return np.asarray(point)
    return None


def _suits(anatomy: Anatomy, points: FloatArray, tumour: Tumour) -> BoolArray:
    """(N,) whether a tumour of this kind grows at each point."""
    radius = 0.5 * tumour.diameter_mm
    x, y = anatomy.to_body(points[:, 0], points[:, 1], points[:, 2])
    z = points[:, 2]
    to_wall = anatomy.cavity(x, y, z)
    to_middle = -anatomy.mediastinum(x, y, z)
    above = anatomy.above_diaphragm(x, y, z)
    if tumour.kind is TumourKind.PLEURAL:
        grows = (np.abs(to_wall - 0.45 * radius) < 0.25 * radius) & (to_middle > radius) & (above > radius)
    elif tumour.kind is TumourKind.MEDIASTINAL:
        grows = (np.abs(to_middle - 0.5 * radius) < 0.25 * radius) & (to_wall > radius) & (above > radius)
    else:
        grows = anatomy.lung(x, y, z) > 0.85 * radius
    return np.asarray(grows, dtype=np.bool_)


def _share_in_lung(anatomy: Anatomy, tumour: Tumour, centre: FloatArray) -> float:
    """Share of the tumour's volume inside the lung, from balls of directions at three radii."""
    directions = _directions(96)
    surface = relative_radius(directions[:, 0], directions[:, 1], directions[:, 2], tumour.lobes)
    inside = [
        anatomy.lung_at(centre + (directions * (surface * share)[:, None] * tumour.semi_axes) @ tumour.rotation) > 0
        for share in (0.5, 0.8, 0.97)  # middles of shells of roughly equal volume
    ]
    return float(np.mean(inside))


def _spicules(rng: np.random.Generator, tumour: Tumour, centre: FloatArray) -> Tubes:
    """Strands that radiate into the lung: one from each sharp lobe and as many between them."""
    between = rng.standard_normal((SHARP_LOBES, 3))
    between /= np.linalg.norm(between, axis=1, keepdims=True)
    unit = np.concatenate([tumour.lobes[-SHARP_LOBES:, :3], between])
    surface = relative_radius(unit[:, 0], unit[:, 1], unit[:, 2], tumour.lobes)
    border = (unit * tumour.semi_axes * surface[:, None]) @ tumour.rotation
    length = rng.uniform(0.25, 0.9, len(unit)) * 0.5 * tumour.diameter_mm + 2.0
    outward = border / np.linalg.norm(border, axis=1, keepdims=True)
    end = centre + border + outward * length[:, None] + rng.normal(0, 1.2, (len(unit), 3))
    root = rng.uniform(0.6, 1.0, len(unit)) * np.clip(0.05 * tumour.diameter_mm, 0.6, 1.1)
    return Tubes(start=centre + 0.85 * border, end=end, start_radius=root, end_radius=np.full(len(unit), 0.3))


def _mean_cubed(lobes: FloatArray) -> float:
    """Mean over directions of the relative radius cubed: the volume against the plain ellipsoid's."""
    directions = _directions(600)
    surface = relative_radius(directions[:, 0], directions[:, 1], directions[:, 2], lobes)
    return float((surface.astype(np.float64) ** 3).mean())


def _directions(count: int) -> FloatArray:
    """(count, 3) unit vectors spread evenly: a Fibonacci lattice on the sphere."""
    n = np.arange(count) + 0.5
    z = 1 - 2 * n / count
    angle = np.pi * (1 + 5**0.5) * n
    ring = np.sqrt(1 - z * z)
    return np.stack([ring * np.cos(angle), ring * np.sin(angle), z], axis=1)
