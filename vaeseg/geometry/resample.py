"""Between a volume's native grid and the model's: one square of S x S pixels a slice, and back.

The model grid is square, centred on the slice, and as wide as its longer side in mm, so that pixels are square whatever
the file has. Slices are not resampled along k. Arrays are in axial order (`geometry.orientation`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from vaeseg.geometry.affine import to_lps_mm
from vaeseg.records import BoolArray, FloatArray, IntArray, VolumeGeometry

INT16 = np.iinfo(np.int16)
ON_BORDER = 1e-6
"""Of a voxel: as near to the border of two, a point lies on it, whatever rounding made of it."""


def to_model_grid(volume: npt.NDArray[Any], spacing_mm: tuple[float, float, float], size: int) -> npt.NDArray[np.int16]:
    """Resample each slice to the model grid.

    Each model pixel is the mean of the native area that it covers; where the model grid is the finer one, values are
    interpolated linearly between native centres. What lies outside the slice takes the volume's minimum.

    Args:
        volume: (K, J, I) any real dtype, axial order, HU.
        spacing_mm: (k, j, i).
        size: side of the model grid, pixels.

    Returns:
        (K, size, size) int16, rounded to the nearest, C-contiguous; what int16 cannot hold takes its nearest value.
    """
    _, height, width = volume.shape
    rows, columns = _side_weights(height, spacing_mm[1], width, spacing_mm[2], size)
    factor = _whole_blocks(rows, columns)
    fill = float(volume.min())
    resampled = np.empty((len(volume), size, size), dtype=np.int16)
    for k, plane in enumerate(volume):
        values = _block_mean(plane, factor) if factor else _weighted(plane, rows, columns, fill)
        np.rint(values, out=values)
        resampled[k] = np.clip(values, INT16.min, INT16.max, out=values)
    return resampled


def mask_to_native(mask: BoolArray, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> BoolArray:
    """Carry a mask from the model grid to the native one: each native voxel takes the model pixel its centre lies in.

    Args:
        mask: (K, S, S) bool; some slices of the volume will do.
        shape: of the native grid, axial order.
        spacing_mm: (k, j, i) of the native grid.

    Returns:
        (K, J, I) bool, J and I those of `shape`.
    """
    rows, columns = model_pixel_of_voxel(shape, spacing_mm, mask.shape[-1])
    native = np.zeros((len(mask), *shape[1:]), dtype=np.bool_)
    for k in np.flatnonzero(mask.any(axis=(1, 2))):  # in most slices of a chest there is nothing
        native[k] = mask[k][rows[:, None], columns]
    return native


def label_to_model_grid(label: BoolArray, spacing_mm: tuple[float, float, float], size: int) -> BoolArray:
    """A label on the model grid: pixels at least half covered. (K, J, I) bool to (K, size, size) bool."""
    _, height, width = label.shape
    rows, columns = _side_weights(height, spacing_mm[1], width, spacing_mm[2], size)
    covered = np.stack([_weighted(plane, rows, columns, 0.0) for plane in label])
    return np.asarray(covered >= 0.5 - ON_BORDER)


def model_pixel_mm(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], size: int) -> float:
    """Side of a pixel of the model grid, whose longer native side fills it."""
    _, height, width = shape
    return max(height * spacing_mm[1], width * spacing_mm[2]) / size


def model_pixel_of_voxel(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], size: int
) -> tuple[IntArray, IntArray]:
    """Model row of each native row, and model column of each native column: (J,) and (I,) intp."""
    _, height, width = shape
    pixel_mm = model_pixel_mm(shape, spacing_mm, size)
    return (
        _nearest_model_index(height, spacing_mm[1], pixel_mm, size),
        _nearest_model_index(width, spacing_mm[2], pixel_mm, size),
    )


def covered_by_slice(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], size: int
) -> tuple[slice, slice]:
    """Rows and columns of the model grid whose centres lie within the native slice; all of them for a square one."""
    _, height, width = shape
    pixel_mm = model_pixel_mm(shape, spacing_mm, size)
    return _covered(height * spacing_mm[1] / pixel_mm, size), _covered(width * spacing_mm[2] / pixel_mm, size)


def label_in_grid(label: BoolArray, label_geometry: VolumeGeometry, target: VolumeGeometry) -> BoolArray:
    """Resample a label in world space onto another grid, nearest voxel, of two the later; outside its grid is False.

    Args:
        label: bool array of `label_geometry.shape`.
        label_geometry: where the label lies.
        target: the grid wanted.

    Returns:
        bool array of `target.shape`.
    """
    source_from_target = np.linalg.inv(label_geometry.lps_from_kji) @ target.lps_from_kji
    rows, columns = np.meshgrid(np.arange(target.shape[1]), np.arange(target.shape[2]), indexing="ij")
    resampled = np.zeros(target.shape, dtype=np.bool_)
    for k in range(target.shape[0]):
        kji = np.stack([np.full(rows.shape, k), rows, columns], axis=-1).astype(np.float64)
        source = np.floor(kji @ source_from_target[:3, :3].T + source_from_target[:3, 3] + 0.5 + ON_BORDER).astype(
            np.intp
        )
        inside = ((source >= 0) & (source < np.array(label.shape))).all(axis=-1)
        found = source[inside]
        resampled[k][inside] = label[found[:, 0], found[:, 1], found[:, 2]]
    return resampled


def share_inside(voxels_kji: IntArray, geometry: VolumeGeometry, target: VolumeGeometry) -> float:
    """Share of the given (N, 3) voxels of `geometry` whose centres lie inside the box of `target`; 1.0 for none."""
    if len(voxels_kji) == 0:
        return 1.0
    lps = to_lps_mm(geometry, voxels_kji.astype(np.float64))
    inverse = np.linalg.inv(target.lps_from_kji)
    kji = lps @ inverse[:3, :3].T + inverse[:3, 3]
    inside = ((kji >= -0.5) & (kji < np.array(target.shape) - 0.5)).all(axis=1)
    return float(inside.mean())


def _whole_blocks(rows: csr_array, columns: csr_array) -> int:
    """How many native rows and columns make a model pixel, where each takes whole ones; else 0."""
    size, n_native = rows.shape
    if rows.shape != columns.shape or n_native % size:
        return 0
    factor = n_native // size
    tiled = np.repeat(np.eye(size), factor, axis=1) / factor
    return factor if all(np.allclose(side.toarray(), tiled, atol=1e-6) for side in (rows, columns)) else 0


def _block_mean(plane: npt.NDArray[Any], factor: int) -> FloatArray:
    """Mean of each `factor` x `factor` block, as `_weighted` has it: most CT is 512 x 512, twice the usual model's."""
    narrowed = plane[::factor].astype(np.float32)
    for n in range(1, factor):
        narrowed += plane[n::factor]
    mean = narrowed[:, ::factor].copy()
    for n in range(1, factor):
        mean += narrowed[:, n::factor]
    mean /= np.float32(factor**2)
    return mean


def _weighted(plane: npt.NDArray[Any], rows: csr_array, columns: csr_array, fill: float) -> FloatArray:
    """(size, size) float32: sums of native samples by weight; what lies outside the slice is `fill`."""
    narrowed = rows @ (plane.astype(np.float32) - np.float32(fill))
    return np.asarray((columns @ np.ascontiguousarray(narrowed.T)).T + np.float32(fill))


def _side_weights(
    height: int, row_spacing: float, width: int, column_spacing: float, size: int
) -> tuple[csr_array, csr_array]:
    """Of rows and of columns, each (size, n_native): few native samples weigh anything in a model pixel."""
    pixel_mm = max(height * row_spacing, width * column_spacing) / size
    rows, columns = _weights(height, row_spacing, pixel_mm, size), _weights(width, column_spacing, pixel_mm, size)
    return csr_array(rows), csr_array(columns)


def _weights(n_native: int, spacing: float, pixel_mm: float, size: int) -> FloatArray:
    """(size, n_native) float32: row m holds the share of each native sample in model pixel m."""
    scale = pixel_mm / spacing
    start = (n_native - size * scale) / 2  # native edge coordinate of the model grid's edge
    if scale < 1:
        return _linear_weights(n_native, start + (np.arange(size) + 0.5) * scale - 0.5)
    low = start + np.arange(size)[:, None] * scale
    edges = np.arange(n_native)[None, :]
    overlap = np.minimum(low + scale, edges + 1) - np.maximum(low, edges)
    return np.asarray(np.clip(overlap, 0.0, 1.0) / scale, dtype=np.float32)


def _covered(extent: float, size: int) -> slice:
    """Pixels whose centres lie within `extent` pixels about the middle of `size`."""
    first = math.ceil((size - extent) / 2 - 0.5 - ON_BORDER)
    return slice(first, size - first)


def _linear_weights(n_native: int, centres: FloatArray) -> FloatArray:
    """Linear interpolation at native coordinates; the edge sample holds for half a voxel, then nothing."""
    inside = (centres >= -0.5) & (centres <= n_native - 0.5)
    clamped = np.clip(centres, 0, n_native - 1)[:, None]
    weights = np.clip(1.0 - np.abs(clamped - np.arange(n_native)[None, :]), 0.0, 1.0)
    return np.asarray(weights * inside[:, None], dtype=np.float32)


def _nearest_model_index(n_native: int, spacing: float, pixel_mm: float, size: int) -> IntArray:
    """Of two pixels a centre on their border is in the later one, so that none is doubled or left out."""
    centre_mm = (np.arange(n_native) + 0.5 - n_native / 2) * spacing
    index = np.floor(centre_mm / pixel_mm + size / 2 + ON_BORDER).astype(np.intp)
    return np.asarray(np.clip(index, 0, size - 1))
