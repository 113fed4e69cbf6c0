"""A random field that varies smoothly through the patient, for tissue that is not uniform."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from vaeseg.phantom.canvas import Hounsfield
from vaeseg.records import FloatArray

GRID_MM = 3.0
"""Step of the random grid; the field is interpolated between its points."""

GRID_SIDE = 176
"""Points along a side: the grid spans more than the largest field of view."""

WAVELENGTHS_MM = (23.0, 31.0, 47.0, 71.0)
"""How fast each layer comes and goes along z."""

SMOOTHING = (0.8, 1.5, 4.0, 4.0)
"""Of each layer, grid steps."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Texture:
    """A few plane layers that come and go along z: cheap, and free of seams."""

    layers: tuple[Hounsfield, ...]
    """Each (J, I), zero mean, unit variance."""
    phases: FloatArray
    """One for each layer, radians."""

    def coarse(self, z_mm: float) -> Hounsfield:
        """(J, I) float32 with mean about 0 and variance about 1: only what is wider than a centimetre."""
        turn = 2 * np.pi * z_mm / WAVELENGTHS_MM[-1]
        return self.layers[-1] * np.float32(np.cos(turn)) + self.layers[-2] * np.float32(np.sin(turn))

    def at(self, z_mm: float) -> Hounsfield:
        """(J, I) float32 at a height: mean about 0; variance about 1, taken over all heights."""
        weights = np.cos(2 * np.pi * z_mm / np.array(WAVELENGTHS_MM) + self.phases) * np.sqrt(2 / len(self.layers))
        field = self.layers[0] * np.float32(weights[0])
        for layer, weight in zip(self.layers[1:], weights[1:], strict=True):
            field += layer * np.float32(weight)
        return field


def draw_texture(rng: np.random.Generator, x_mm: Hounsfield, y_mm: Hounsfield) -> Texture:
    """A texture whose look in millimetres does not depend on the pixels it is sampled at."""
    phases = rng.uniform(0, 2 * np.pi, len(WAVELENGTHS_MM))
    grids = [_blotches(rng, sigma) for sigma in SMOOTHING]
    columns = x_mm / GRID_MM + GRID_SIDE / 2
    rows = y_mm / GRID_MM + GRID_SIDE / 2
    where = np.meshgrid(rows, columns, indexing="ij")
    layers = tuple(ndimage.map_coordinates(grid, where, order=1, mode="grid-wrap") for grid in grids)
    return Texture(layers=layers, phases=phases)


def _blotches(rng: np.random.Generator, sigma: float) -> Hounsfield:
    grid = ndimage.gaussian_filter(rng.standard_normal((GRID_SIDE, GRID_SIDE)), sigma, mode="wrap")
    return np.asarray(grid / grid.std(), dtype=np.float32)
