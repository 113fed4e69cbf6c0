"""Tumours: where they sit, their shape, how they are painted and the mask that is their label."""

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


KIND_SHARES = {
    TumourKind.SOLID: 0.32,
    TumourKind.SPICULATED: 0.24,
    TumourKind.GROUND_GLASS: 0.14,
    TumourKind.PLEURAL: 0.17,
    TumourKind.MEDIASTINAL: 0.13,
}

COUNT_SHARES = (0.36, 0.30, 0.20, 0.14)
"""Of patients with 1, 2, 3 and 4 tumours, among those who have any."""

TYPICAL_MM = 20.0
"""Median diameter."""

SMALLEST_MM = 3.0
LARGEST_MM = 60.0
SMALLEST_GROUND_GLASS_MM = 8.0
"""Smaller hazes cannot be told from noise."""

LEAST_INSIDE = {True: 0.45, False: 0.92}
"""Share of a tumour's volume that must lie in the lung: attached ones are cut off by the wall they grow on."""

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

CANDIDATES = 60
"""Places tried for one tumour before it is made smaller."""


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
    """Fine strands into the lung; thinner than a voxel, so painted but not part of the label."""

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
        surface = _surface(u / radius, v / radius, w / radius, self.lobes)
        return np.asarray((surface - radius) * np.float32(self.semi_axes.min()))


def draw_tumours(rng: np.random.Generator, anatomy: Anatomy, tumour_free_share: float, most: int) -> list[Tumour]:
    """None, or 1 to `most` tumours that do not touch each other."""
    if most == 0 or rng.random() < tumour_free_share:
        return []
    shares = np.array(COUNT_SHARES[:most])
    wanted = 1 + int(rng.choice(len(shares), p=shares / shares.sum()))
    tumours: list[Tumour] = []
    for _ in range(wanted):
        tumours.append(_draw_tumour(rng, anatomy, tumours))
    return tumours


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


def _draw_tumour(rng: np.random.Generator, anatomy: Anatomy, others: list[Tumour]) -> Tumour:
    kinds = list(KIND_SHARES)
    kind = kinds[int(rng.choice(len(kinds), p=list(KIND_SHARES.values())))]
    least = SMALLEST_GROUND_GLASS_MM if kind is TumourKind.GROUND_GLASS else SMALLEST_MM
    diameter = float(np.clip(np.exp(rng.normal(np.log(TYPICAL_MM), 0.5)), least, LARGEST_MM))
    while True:
        tumour = _shape(rng, kind, diameter)
        centre = _place(rng, anatomy, tumour, others)
        if centre is not None:
            return _settled(rng, tumour, centre)
        diameter = max(SMALLEST_MM, 0.85 * diameter)


def _shape(rng: np.random.Generator, kind: TumourKind, diameter: float) -> Tumour:
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    axes = np.exp(rng.normal(0, 0.14, 3))
    n_lobes = 6 if kind is not TumourKind.SPICULATED else 16
    directions = rng.standard_normal((n_lobes, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    amplitude = rng.normal(0, 0.11, n_lobes)
    sharpness = rng.uniform(1.5, 5.0, n_lobes)
    if kind is TumourKind.SPICULATED:
        amplitude[6:] = rng.uniform(0.10, 0.30, n_lobes - 6)
        sharpness[6:] = rng.uniform(12.0, 40.0, n_lobes - 6)
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
        texture=60.0 if kind is TumourKind.GROUND_GLASS else 9.0,
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
    surface = _surface(directions[:, 0], directions[:, 1], directions[:, 2], tumour.lobes)
    inside = [
        anatomy.lung_at(centre + (directions * (surface * share)[:, None] * tumour.semi_axes) @ tumour.rotation) > 0
        for share in (0.5, 0.8, 0.97)  # middles of shells of roughly equal volume
    ]
    return float(np.mean(inside))


def _settled(rng: np.random.Generator, tumour: Tumour, centre: FloatArray) -> Tumour:
    return Tumour(
        kind=tumour.kind,
        diameter_mm=tumour.diameter_mm,
        centre=centre,
        rotation=tumour.rotation,
        semi_axes=tumour.semi_axes,
        lobes=tumour.lobes,
        hu=tumour.hu,
        texture=tumour.texture,
        spicules=_spicules(rng, tumour, centre) if tumour.kind is TumourKind.SPICULATED else None,
    )


def _spicules(rng: np.random.Generator, tumour: Tumour, centre: FloatArray) -> Tubes:
    """Strands that carry on from the sharp lobes."""
    lobes = tumour.lobes[6:]
    directions = (lobes[:, :3] * tumour.semi_axes) @ tumour.rotation
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    start = centre + directions * 0.9
    length = rng.uniform(0.3, 0.8, len(lobes)) * 0.5 * tumour.diameter_mm + 2.0
    end = centre + directions * (1.0 + lobes[:, 3:4]) + unit * length[:, None] + rng.normal(0, 1.0, (len(lobes), 3))
    root = np.clip(0.03 * tumour.diameter_mm, 0.4, 1.0)
    return Tubes(start=start, end=end, start_radius=np.full(len(lobes), root), end_radius=np.full(len(lobes), 0.25))


def _surface(u: FloatArray, v: FloatArray, w: FloatArray, lobes: FloatArray) -> Hounsfield:
    """Relative radius in unit directions: 1 plus smooth bulges about the lobes' directions."""
    surface = np.ones(np.broadcast_shapes(u.shape, v.shape, w.shape), dtype=np.float32)
    for a, b, c, amplitude, sharpness in lobes.astype(np.float32):
        cosine = u * a + v * b + w * c
        surface += amplitude * np.exp(sharpness * (cosine - np.float32(1.0)))
    return np.maximum(surface, np.float32(0.3))


def _mean_cubed(lobes: FloatArray) -> float:
    """Mean over directions of the relative radius cubed: the volume against the plain ellipsoid's."""
    directions = _directions(600)
    surface = _surface(directions[:, 0], directions[:, 1], directions[:, 2], lobes)
    return float((surface.astype(np.float64) ** 3).mean())


def _directions(count: int) -> FloatArray:
    """(count, 3) unit vectors spread evenly: a Fibonacci lattice on the sphere."""
    n = np.arange(count) + 0.5
    z = 1 - 2 * n / count
    angle = np.pi * (1 + 5**0.5) * n
    ring = np.sqrt(1 - z * z)
    return np.stack([ring * np.cos(angle), ring * np.sin(angle), z], axis=1)


def _waves(canvas: Canvas, window: Window) -> Hounsfield:
    """An uneven field in about [-1, 1] over a window, the same wherever the slab begins."""
    x, y, z = canvas.offsets(window, np.zeros(3))
    field = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), dtype=np.float32)
    for a, b, c, phase in WAVES:
        field += np.sin(x * np.float32(a) + y * np.float32(b) + (z * np.float32(c) + np.float32(phase)))
    return field * np.float32(1 / len(WAVES) ** 0.5)
