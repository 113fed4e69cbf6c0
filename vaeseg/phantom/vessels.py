"""Trees of arteries, veins and airways, and the great vessels between the lungs.

A tree grows from the hilum towards points scattered through a lung: each point, nearest to the hilum first, is joined
to the nearest node so far that is closer to the hilum. Radii then follow Murray's law (1926): the radius of a branch to
the power `MURRAY` is the sum of its daughters'.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vaeseg.phantom.anatomy import Anatomy
from vaeseg.phantom.canvas import Canvas, Tubes, joined_tubes, paint_tubes, polyline_tubes
from vaeseg.records import FloatArray, IntArray

MURRAY = 2.7
"""Exponent of Murray's law as measured in lungs."""

STEP_MM = 7.0
"""Longest straight piece of a branch."""

VESSEL_TIPS = 380
"""Ends of one arterial (or venous) tree in one lung."""

VESSEL_TIP_RADIUS_MM = 0.62
"""Where it can no longer be seen."""

VESSEL_TIP_DEPTH_MM = 4.5
"""Vessels become invisible this far from the pleura."""

AIRWAY_TIPS = 14
"""Ends of the visible airways of one lung."""

AIRWAY_TIP_RADIUS_MM = 1.3
"""Where it can no longer be seen."""

AIRWAY_TIP_DEPTH_MM = 24.0
"""Airways become invisible much further from the pleura than vessels."""

ARTERY_SHIFT_MM = (0.0, -5.0, 5.0)
"""The artery enters the lung in front of and above the bronchus."""

VEIN_SHIFT_MM = (0.0, 5.0, -9.0)
"""The vein leaves it behind and below."""

AIRWAY_WALL_HU = -150.0
"""Of a bronchus' wall, which is thinner than a pixel."""

GREAT_VESSELS: dict[str, list[tuple[float, float, float, float]]] = {
    "aorta": [
        (-8, -0.22, 0.40, 16),
        (-16, -0.28, 0.52, 16),
        (-10, -0.22, 0.66, 14.5),
        (6, 0.0, 0.72, 13.5),
        (22, 0.20, 0.68, 12.5),
        (27, 0.34, 0.58, 12),
        (26, 0.38, 0.30, 11.5),
        (14, 0.40, -0.40, 10),
    ],
    "superior vena cava": [(-24, -0.05, 0.38, 10), (-25, -0.12, 0.62, 9.5), (-15, -0.24, 0.95, 8)],
    "pulmonary trunk": [(10, -0.38, 0.42, 14), (18, -0.22, 0.54, 13.5), (6, -0.05, 0.56, 11)],
    "brachiocephalic": [(-5, -0.05, 0.71, 5.5), (-14, -0.25, 1.2, 4)],
    "left carotid": [(2, -0.05, 0.71, 5), (7, -0.15, 1.2, 3.5)],
    "left subclavian": [(10, 0.05, 0.71, 5), (20, -0.03, 1.2, 4)],
}
"""Paths as x in mm, y in cavity depths, z in lung heights, radius in mm."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Vessels:
    """All tubes of one patient, in scanner space."""

    blood: Tubes
    """Pulmonary arteries and veins within the lungs."""
    airways: Tubes
    """Trachea and bronchi, their lumen."""
    great: Tubes
    """Aorta, cava, pulmonary trunk, branches of the arch."""
    soft: Tubes
    """Oesophagus and lymph nodes."""


def draw_vessels(rng: np.random.Generator, anatomy: Anatomy) -> Vessels:
    """Grow every tree of one patient."""
    blood, airways = [], []
    for side in (-1.0, 1.0):
        hilum = _hilum(anatomy, side)
        for shift in (ARTERY_SHIFT_MM, VEIN_SHIFT_MM):
            tips = _scatter_tips(rng, anatomy, side, VESSEL_TIPS, VESSEL_TIP_DEPTH_MM)
            blood.append(_grow(rng, hilum + np.array(shift), tips, VESSEL_TIP_RADIUS_MM))
        tips = _scatter_tips(rng, anatomy, side, AIRWAY_TIPS, AIRWAY_TIP_DEPTH_MM)
        airways.append(_grow(rng, hilum, tips, AIRWAY_TIP_RADIUS_MM))
    airways.append(_trachea(anatomy))
    return Vessels(
        blood=joined_tubes(blood),
        airways=joined_tubes(airways),
        great=_great_vessels(anatomy),
        soft=_soft_tubes(rng, anatomy),
    )


def paint_vessels(canvas: Canvas, anatomy: Anatomy, vessels: Vessels) -> None:
    """Paint all tubes on a slab: soft tissue first, then blood, then the walls and the air of the airways."""
    paint_tubes(canvas, vessels.soft, 38.0, "cover")
    paint_tubes(canvas, vessels.great.widened(1.0, 1.2), 45.0, "cover")
    paint_tubes(canvas, vessels.great, anatomy.blood_hu, "cover")
    paint_tubes(canvas, vessels.blood, anatomy.blood_hu, "brighten")
    paint_tubes(canvas, vessels.airways.widened(1.1, 0.5), AIRWAY_WALL_HU, "brighten")
    paint_tubes(canvas, vessels.airways, -985.0, "darken")


def _hilum(anatomy: Anatomy, side: float) -> FloatArray:
    x = side * (anatomy.mediastinum_width + 4.0) + 3.0
    height = 0.50 if side < 0 else 0.53
    body = np.array([[x, 0.12 * anatomy.cavity_depth, height * anatomy.lung_height]])
    return np.asarray(anatomy.to_scanner(body)[0])


def _grow(rng: np.random.Generator, root: FloatArray, tips: FloatArray, tip_radius: float) -> Tubes:
    """A tree from its root to (N, 3) tips."""
    tips = tips[np.argsort(np.linalg.norm(tips - root, axis=1), kind="stable")]
    nodes, parents = _join_tips(rng, root, tips)
    radius = _murray_radii(parents, tip_radius)
    children = np.arange(1, len(nodes))
    begin = parents[children]
    thick = np.minimum(radius[begin], radius[children] * 1.25)  # a side branch starts with its own width
    return Tubes(start=nodes[begin], end=nodes[children], start_radius=thick, end_radius=radius[children])


NARROWER_MM = 1.0
"""What is given up of the depth each time that no point of a draw was deep enough."""


def _scatter_tips(
    rng: np.random.Generator, anatomy: Anatomy, side: float, n_tips: int, least_depth: float
) -> FloatArray:
    """Points deep enough inside one lung, evenly spread; less deep where a lung is too narrow for that."""
    width, depth, height = anatomy.cavity_width, anatomy.cavity_depth, anatomy.lung_height
    found: list[FloatArray] = []
    while sum(map(len, found)) < n_tips:
        body = rng.uniform((0, -depth, 0), (width, depth, height), size=(4 * n_tips, 3)) * (side, 1, 1)
        points = anatomy.to_scanner(body)
        found.append(np.asarray(points[anatomy.lung_at(points) > least_depth]))
        if len(found[-1]) == 0:
            least_depth -= NARROWER_MM
    return np.concatenate(found)[:n_tips]


def _join_tips(rng: np.random.Generator, root: FloatArray, tips: FloatArray) -> tuple[FloatArray, IntArray]:
    """Nodes (N, 3) and the parent of each (the root is its own), each parent before its children."""
    nodes = np.empty((len(tips) * 16 + 1, 3))
    parents = np.zeros(len(nodes), dtype=np.intp)
    reach = np.zeros(len(nodes))
    nodes[0] = root
    count = 1
    for tip in tips:
        distance = float(np.linalg.norm(tip - root))
        gap = np.linalg.norm(nodes[:count] - tip, axis=1)
        backwards = reach[:count] > 0.92 * distance
        parent = int(np.argmin(gap + 0.12 * reach[:count] + 1e6 * (backwards & (np.arange(count) > 0))))
        pieces = int(np.clip(np.ceil(gap[parent] / STEP_MM), 1, 16))
        path = _winding_path(rng, nodes[parent], tip, pieces)
        nodes[count : count + pieces] = path
        parents[count : count + pieces] = [parent, *range(count, count + pieces - 1)]
        reach[count : count + pieces] = np.linalg.norm(path - root, axis=1)
        count += pieces
    return nodes[:count], parents[:count]


def _winding_path(rng: np.random.Generator, start: FloatArray, end: FloatArray, pieces: int) -> FloatArray:
    share = np.arange(1, pieces + 1)[:, None] / pieces
    length = float(np.linalg.norm(end - start))
    bow = rng.normal(0, 0.07 * length, 3) * np.sin(np.pi * share)
    jitter = rng.normal(0, 0.6, (pieces, 3)) * (share < 1)
    return np.asarray(start + (end - start) * share + bow + jitter)


def _murray_radii(parents: IntArray, tip_radius: float) -> FloatArray:
    """(N,) radius of the piece that ends at each node."""
    n_children = np.bincount(parents[1:], minlength=len(parents))
    power = np.where(n_children == 0, tip_radius**MURRAY, 0.0)
    for node in range(len(parents) - 1, 0, -1):
        power[parents[node]] += power[node]
    return np.asarray(power ** (1 / MURRAY))


def _trachea(anatomy: Anatomy) -> Tubes:
    """Trachea and main bronchi."""
    height, depth = anatomy.lung_height, anatomy.cavity_depth
    carina = np.array([2.0, 0.10 * depth, 0.60 * height])
    top = np.array([0.0, -0.12 * depth, 1.25 * height])
    parts = [polyline_tubes(anatomy.to_scanner(np.stack([top, carina])), np.array([8.8, 8.4]))]
    for side in (-1.0, 1.0):
        bronchus = np.stack([anatomy.to_scanner(carina[None])[0], _hilum(anatomy, side)])
        parts.append(polyline_tubes(bronchus, np.array([6.8, 5.2])))
    return joined_tubes(parts)


def _great_vessels(anatomy: Anatomy) -> Tubes:
    scale = np.array([1.0, anatomy.cavity_depth, anatomy.lung_height])
    parts = []
    for path in GREAT_VESSELS.values():
        table = np.array(path)
        parts.append(polyline_tubes(anatomy.to_scanner(table[:, :3] * scale), table[:, 3]))
    middle = anatomy.to_scanner(np.array([[8.0, -0.08, 0.55]]) * scale)[0]
    for side in (-1.0, 1.0):
        end = _hilum(anatomy, side) + np.array(ARTERY_SHIFT_MM)
        parts.append(polyline_tubes(np.stack([middle, end]), np.array([10.0, 7.0])))
    return joined_tubes(parts)


def _soft_tubes(rng: np.random.Generator, anatomy: Anatomy) -> Tubes:
    """Oesophagus in front of the spine and a few small lymph nodes."""
    scale = np.array([1.0, anatomy.cavity_depth, anatomy.lung_height])
    gullet = np.array([[8, 0.30, -0.4], [6, 0.34, 0.5], [4, 0.16, 1.3]]) * scale
    parts = [polyline_tubes(anatomy.to_scanner(gullet), np.array([8.0, 7.0, 7.0]))]
    for _ in range(int(rng.integers(2, 8))):
        where = rng.uniform((-22, -0.3, 0.45), (24, 0.25, 0.75)) * scale
        node = np.stack([where, where + rng.uniform(-5, 5, 3)])
        radius = float(rng.uniform(2, 4.5))
        parts.append(polyline_tubes(anatomy.to_scanner(node), np.array([radius, radius])))
    return joined_tubes(parts)
