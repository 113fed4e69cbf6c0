"""The thorax as signed depths in millimetres: where body, chest cavity, lungs, heart and spine are.

Body space has its origin on the cavity's axis at the lowest edge of the lungs; x to the patient's left, y to the
back, z to the head. Scanner space is body space turned, shifted and slightly bent. A depth is positive inside. All
depths take arrays that broadcast, so the same lines serve a slice of pixels and a list of points; a single height is a
float32, so that planes of float32 stay so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vaeseg.records import FloatArray

Coordinates = npt.NDArray[np.floating[Any]] | np.floating[Any] | float

CORNER_MM = 9.0
"""Lungs have no sharp corners: surfaces that meet are rounded over this distance."""

FULLNESS = 1.4
"""Of body and chest seen from below: 2 is an ellipse, 0 nearly a rectangle."""


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """One patient's proportions, all in mm, HU or radians."""

    cavity_width: float
    """Half-width of the chest cavity at its widest."""
    cavity_depth: float
    """Half-depth of the chest cavity."""
    lung_height: float
    """From the lowest edge of the lungs to their apex."""
    wall: float
    """Muscle and ribs between cavity and fat."""
    fat: float
    """Subcutaneous fat at the side."""
    heart_scale: float
    """Size of the heart against the average."""
    mediastinum_width: float
    """Half-width of the mediastinum above the heart."""
    dome_right: float
    """Height of the right half of the diaphragm."""
    dome_left: float
    """Height of the left half of the diaphragm."""
    lung_hu: float
    """Mean of the lung's tissue."""
    blood_hu: float
    """Of all vessels and chambers; high where contrast was given."""
    roll: float
    """Turn about the z axis, radians."""
    lean: tuple[float, float]
    """How far x and y move per mm of z: a patient who lies askew."""
    offset: tuple[float, float]
    """Body axis in scanner space at mid-lung, mm."""
    bend: tuple[float, float, float, float]
    """Amplitude (mm) and phase of the waves that make left and right, front and back differ."""
    breasts: float
    """Height of the breasts in mm, 0 for none."""

    @property
    def vertebra_y(self) -> float:
        """Centre of the vertebral bodies, body y."""
        return self.cavity_depth - 20.0

    @property
    def skin_shift(self) -> float:
        """How far the body's outline lies behind the cavity: muscles of the back are thicker than the chest's."""
        return 9.0

    @property
    def back_y(self) -> float:
        """The lowest point of the back, body y."""
        return self.cavity_depth + self.wall + 0.75 * self.fat + 4.0 + self.skin_shift

    def to_body(self, x: Coordinates, y: Coordinates, z: Coordinates) -> tuple[Any, Any]:
        """Body x and y of scanner coordinates; z is the same in both spaces."""
        height = z - 0.5 * self.lung_height
        dx = x - (self.offset[0] + self.lean[0] * height) + self.bend[0] * np.sin(y * 0.021 + z * 0.017 + self.bend[1])
        dy = y - (self.offset[1] + self.lean[1] * height) + self.bend[2] * np.sin(x * 0.019 - z * 0.015 + self.bend[3])
        cosine, sine = float(np.cos(self.roll)), float(np.sin(self.roll))
        return cosine * dx + sine * dy, cosine * dy - sine * dx

    def to_scanner(self, points: FloatArray) -> FloatArray:
        """(N, 3) body to scanner coordinates; leaves out the slight bend."""
        cosine, sine = np.cos(self.roll), np.sin(self.roll)
        height = points[:, 2] - 0.5 * self.lung_height
        x = cosine * points[:, 0] - sine * points[:, 1] + self.offset[0] + self.lean[0] * height
        y = sine * points[:, 0] + cosine * points[:, 1] + self.offset[1] + self.lean[1] * height
        return np.stack([x, y, points[:, 2]], axis=1)

    def skin_axes(self, z: Coordinates) -> tuple[Any, Any]:
        """Half-width and half-depth of the body at a height; shoulders widen the top."""
        t = z / self.lung_height
        shoulder = np.clip((t - 0.62) / 0.4, 0.0, 1.0) ** 1.5
        width = self.cavity_width + self.wall + self.fat + shoulder * 75.0
        return width, self.cavity_depth + self.wall + 0.75 * self.fat + 4.0 - 12.0 * shoulder

    def cavity_axes(self, z: Coordinates) -> tuple[Any, Any]:
        """Half-width and half-depth of the chest cavity at a height: a barrel that closes at the apex."""
        t = z / self.lung_height
        upper = np.clip((t - 0.28) / 0.735, 0.0, 0.9999)
        lower = np.clip((0.3 - t) / 0.3, 0.0, 1.5)
        width = (1.0 - upper**2.5) ** 0.5 * (1.0 - 0.05 * lower**2)
        depth = (1.0 - upper**3.0) ** 0.45 * (1.0 - 0.07 * lower**2)
        return self.cavity_width * width, self.cavity_depth * depth

    def cavity(self, x: Coordinates, y: Coordinates, z: Coordinates) -> Any:
        """Depth inside the chest cavity; x and y in body space, as below."""
        width, depth = self.cavity_axes(z)
        return superellipse(x, y + 0.12 * (self.cavity_depth - depth), width, depth)

    def heart(self, x: Coordinates, y: Coordinates, z: Coordinates) -> Any:
        """Depth inside the heart: an ellipsoid that points to the left and to the front."""
        centre = (24.0, -0.20 * self.cavity_depth, 0.27 * self.lung_height)
        dx, dy, dz = x - centre[0], y - centre[1], (z - centre[2]) / (50.0 * self.heart_scale)
        long, short = 0.82 * dx - 0.57 * dy, 0.57 * dx + 0.82 * dy
        long, short = long + 8.0 * dz, short - 4.0 * dz
        radius = np.sqrt((long / (64.0 * self.heart_scale)) ** 2 + (short / (46.0 * self.heart_scale)) ** 2 + dz * dz)
        return (1.0 - radius) * 46.0 * self.heart_scale

    def spine(self, x: Coordinates, y: Coordinates) -> Any:
        """Depth inside the column of vertebrae with what clings to it."""
        return ellipse(x, y - self.vertebra_y - 6.0, 25.0, 27.0)

    def mediastinum(self, x: Coordinates, y: Coordinates, z: Coordinates) -> Any:
        """Depth inside what lies between the lungs: great vessels, heart with its fat, septum and spine."""
        t = z / self.lung_height
        hilum = np.exp(-(((t - 0.55) / 0.12) ** 2))
        width = self.mediastinum_width * (0.72 + 0.30 * hilum + 0.35 * np.clip(t - 0.85, 0, 1))
        middle = ellipse(x - 3.0, y - 0.08 * self.cavity_depth, width, 0.60 * self.cavity_depth)
        depth = -rounded_min(-middle, -self.spine(x, y))
        depth = -rounded_min(-depth, -(self.heart(x, y, z) + 5.0))
        return np.maximum(depth, 3.0 - np.abs(x - 4.0))

    def above_diaphragm(self, x: Coordinates, y: Coordinates, z: Coordinates) -> Any:
        """Distance above the two domes, positive on the lung's side."""
        half = 0.52 * self.cavity_width
        across = np.where(np.asarray(x) < 0, (x + half) / half, (x - half) / half)
        bow = 1.0 - 0.55 * across * across - ((y + 14.0) / (0.92 * self.cavity_depth)) ** 2
        return (z - np.where(np.asarray(x) < 0, self.dome_right, self.dome_left) * bow) * 0.75

    def lung(self, x: Coordinates, y: Coordinates, z: Coordinates) -> Any:
        """Depth inside either lung."""
        depth = rounded_min(self.cavity(x, y, z), -self.mediastinum(x, y, z))
        return rounded_min(depth, self.above_diaphragm(x, y, z))

    def lung_at(self, points: FloatArray) -> FloatArray:
        """(N,) depth inside a lung of (N, 3) points in scanner space."""
        x, y = self.to_body(points[:, 0], points[:, 1], points[:, 2])
        return np.asarray(self.lung(x, y, points[:, 2]))


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """One patient's proportions."""
    size = rng.normal(1.0, 0.07)
    contrast = rng.random() < 0.5
    return Anatomy(
        cavity_width=float(np.clip(132 * size + rng.normal(0, 5), 112, 152)),
        cavity_depth=float(np.clip(88 * size + rng.normal(0, 6), 72, 108)),
        lung_height=float(np.clip(240 * size + rng.normal(0, 14), 195, 285)),
        wall=float(rng.uniform(16, 24)),
        fat=float(rng.gamma(3.0, 5.0) + 4.0),
        heart_scale=float(np.clip(rng.normal(0.98, 0.09), 0.8, 1.2)),
        mediastinum_width=float(rng.uniform(34, 43)),
        dome_right=float(rng.uniform(45, 75)),
        dome_left=float(rng.uniform(35, 62)),
        lung_hu=float(rng.uniform(-890, -800)),
        blood_hu=float(rng.uniform(140, 330) if contrast else rng.uniform(32, 50)),
        roll=float(rng.normal(0, 0.045)),
        lean=(float(rng.normal(0, 0.03)), float(rng.normal(0, 0.04))),
        offset=(float(rng.normal(0, 8)), float(rng.normal(-5, 8))),
        bend=(_wave(rng), _phase(rng), _wave(rng), _phase(rng)),
        breasts=float(rng.uniform(4, 26) if rng.random() < 0.45 else 0.0),
    )


def _wave(rng: np.random.Generator) -> float:
    return float(rng.uniform(1, 4))


def _phase(rng: np.random.Generator) -> float:
    return float(rng.uniform(0, 2 * np.pi))


def ellipse(x: Coordinates, y: Coordinates, width: Coordinates, depth: Coordinates) -> Any:
    """Signed depth inside an ellipse with these half-axes; exact on the axes, good near the edge."""
    p, q = x / width, y / depth
    radius = np.sqrt(p * p + q * q)
    return (1.0 - radius) * np.minimum(width, depth)


def superellipse(x: Coordinates, y: Coordinates, width: Coordinates, depth: Coordinates) -> Any:
    """Signed depth in an outline with these half-axes, fuller at its corners than an ellipse."""
    p, q = x / width, y / depth
    p, q = p * p, q * q
    radius = np.sqrt(np.sqrt(p * p + q * q + FULLNESS * p * q))
    return (1.0 - radius) * np.minimum(width, depth)


def rounded_min(one: Any, other: Any) -> Any:
    """The smaller of two depths, with the corner rounded over `CORNER_MM`."""
    near = np.maximum(CORNER_MM - np.abs(one - other), 0.0)
    return np.minimum(one, other) - near * near * (0.25 / CORNER_MM)
