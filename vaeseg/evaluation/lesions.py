"""From a mask to its lesions: connected components, each measured on the native grid.

Arrays are in axial order (`geometry.orientation`), so that a plane of constant k is an axial slice. Work is done inside
bounding boxes: a CT of 600 slices has 157 million voxels, a tumour a few thousand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vaeseg.evaluation.boxes import Box, bounding_box
from vaeseg.geometry.affine import to_lps_mm
from vaeseg.records import MM3_PER_ML, BoolArray, FloatArray, IntArray, LesionRecord, VolumeGeometry

TOUCHING = np.ones((3, 3, 3), dtype=np.bool_)
"""Voxels that touch by a face, an edge or a corner belong to the same lesion: connectivity 26."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Components:
    """The connected components of a mask, largest first; of two equal ones, that with the first voxel."""

    labels: IntArray
    """(k, j, i) integer, cropped to `box`; 0 outside, n for component number n from 1."""
    box: Box
    """Where `labels` lies in the whole array."""
    boxes: tuple[Box, ...]
    """Of each component, within `labels`."""
    n_voxels: tuple[int, ...]
    """Of each component."""


def measure_lesions(
    mask: BoolArray, geometry: VolumeGeometry, slices_hu: npt.NDArray[Any], rows: IntArray, columns: IntArray
) -> tuple[LesionRecord, ...]:
    """Find and measure the lesions of a mask.

    Args:
        mask: (K, J, I) bool, native grid in axial order.
        geometry: of that grid (`geometry.orientation.axial_geometry`).
        slices_hu: (K, S, T) real, HU on the model grid, or on any grid that `rows` and `columns` lead to.
        rows: (J,) row of `slices_hu` in which each native row lies (`geometry.resample.model_pixel_of_voxel`).
        columns: (I,) column of `slices_hu` in which each native column lies.

    Returns:
        One record a lesion, largest first; empty for an empty mask.

    Raises:
        ValueError: the mask's shape is not the geometry's, or `slices_hu`, `rows` or `columns` do not fit it.
    """
    _check_shapes(mask, geometry, slices_hu, rows, columns)
    components = find_components(mask)
    k, j, i = components.box
    mean_hu = lesion_mean_hu(components.labels, slices_hu[k], rows[j], columns[i])
    return tuple(_measure(components, number, geometry, float(mean_hu[number - 1])) for number in _numbers(components))


def find_components(mask: BoolArray) -> Components:
    """Connected components of a (K, J, I) bool mask, with connectivity 26, cropped to where the mask is."""
    box = bounding_box(mask)
    if box[0].stop == 0:
        return Components(labels=np.zeros((0, 0, 0), dtype=np.int32), box=box, boxes=(), n_voxels=())
    from scipy import ndimage  # a fifth of a second, which only a mask with a tumour in it costs

    labels, _ = ndimage.label(mask[box], structure=TOUCHING)
    boxes = [(k, j, i) for k, j, i in ndimage.find_objects(labels)]
    counts = [int(np.count_nonzero(labels[own] == n)) for n, own in enumerate(boxes, start=1)]
    # components are numbered by their first voxel, and the sort is stable
    order = sorted(range(len(boxes)), key=lambda n: -counts[n])
    renumbered = np.zeros(len(boxes) + 1, dtype=labels.dtype)
    renumbered[np.array(order, dtype=np.intp) + 1] = np.arange(1, len(boxes) + 1)
    return Components(
        labels=renumbered[labels],
        box=box,
        boxes=tuple(boxes[n] for n in order),
        n_voxels=tuple(counts[n] for n in order),
    )


def lesion_mean_hu(labels: IntArray, slices_hu: npt.NDArray[Any], rows: IntArray, columns: IntArray) -> FloatArray:
    """Mean over each lesion's native voxels of the pixel of `slices_hu` that each voxel lies in.

    Args:
        labels: (K, J, I) integer; 0 outside, 1 to n inside lesions.
        slices_hu: (K, S, T) real, HU.
        rows: (J,) row of `slices_hu` for each native row.
        columns: (I,) column of `slices_hu` for each native column.

    Returns:
        (n,) float64, n the greatest label; NaN for a number that labels no voxel.
    """
    n_lesions = int(labels.max(initial=0))
    total, count = np.zeros(n_lesions + 1), np.zeros(n_lesions + 1)
    for plane, hu in zip(labels, slices_hu, strict=True):
        j, i = plane.nonzero()
        numbers = plane[j, i]
        total += np.bincount(numbers, weights=hu[rows[j], columns[i]], minlength=n_lesions + 1)
        count += np.bincount(numbers, minlength=n_lesions + 1)
    return np.asarray(np.divide(total, count, out=np.full(n_lesions + 1, np.nan), where=count > 0)[1:])


def longest_diameter_mm(plane: BoolArray, mm_from_ji: FloatArray) -> float:
    """Greatest extent of a shape within one slice, between mid-edges of its pixels.

    Each pixel reaches half a pixel from its centre along rows and along columns, so that one pixel measures its own
    longer side and a disc its diameter.

    Args:
        plane: (J, I) bool.
        mm_from_ji: (3, 2) the steps of the row and the column index in mm, oblique or sheared as they are.

    Returns:
        mm; 0 for an empty plane.
    """
    from scipy.spatial import ConvexHull  # a third of a second, which only a mask with a tumour in it costs
    from scipy.spatial.distance import pdist

    outline = _mid_edges(plane)
    if len(outline) == 0:
        return 0.0
    corners = outline[ConvexHull(outline).vertices]
    return float(pdist(corners @ mm_from_ji.T).max())


def _check_shapes(
    mask: BoolArray, geometry: VolumeGeometry, slices_hu: npt.NDArray[Any], rows: IntArray, columns: IntArray
) -> None:
    if mask.shape != geometry.shape:
        raise ValueError(f"mask has shape {mask.shape}, its geometry {geometry.shape}")
    mapped = (len(slices_hu), len(rows), len(columns))
    if mapped != mask.shape:
        raise ValueError(f"HU slices, rows and columns number {mapped}, the mask has shape {mask.shape}")


def _numbers(components: Components) -> range:
    return range(1, len(components.boxes) + 1)


def _measure(components: Components, number: int, geometry: VolumeGeometry, mean_hu: float) -> LesionRecord:
    box = components.boxes[number - 1]
    inside = components.labels[box] == number
    n_voxels = components.n_voxels[number - 1]
    centroid = _mean_index(inside) + [whole.start + own.start for whole, own in zip(components.box, box, strict=True)]
    x, y, z = to_lps_mm(geometry, centroid[None, :])[0]
    mm_from_ji = geometry.lps_from_kji[:3, 1:3]
    return LesionRecord(
        lesion_index=number,
        volume_ml=n_voxels * geometry.voxel_volume_mm3 / MM3_PER_ML,
        n_voxels=n_voxels,
        centroid_lps_mm=(float(x), float(y), float(z)),
        longest_axial_diameter_mm=max(longest_diameter_mm(plane, mm_from_ji) for plane in inside),
        mean_hu=mean_hu,
    )


def _mean_index(inside: BoolArray) -> FloatArray:
    """(3,) mean k, j, i of the True voxels."""
    along = (inside.sum(axis=(1, 2)), inside.sum(axis=(0, 2)), inside.sum(axis=(0, 1)))
    return np.array([float(count @ np.arange(len(count))) / float(count.sum()) for count in along])


def _mid_edges(plane: BoolArray) -> FloatArray:
    """(M, 2) row and column of the mid-edges that can lie on the convex hull: ends of each row and each column."""
    rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
    last_row, last_column = np.array(plane.shape) - 1
    left, right = plane.argmax(axis=1)[rows], last_column - plane[:, ::-1].argmax(axis=1)[rows]
    top, bottom = plane.argmax(axis=0)[columns], last_row - plane[::-1].argmax(axis=0)[columns]
    return np.concatenate(
        [
            np.column_stack([rows, left - 0.5]),
            np.column_stack([rows, right + 0.5]),
            np.column_stack([top - 0.5, columns]),
            np.column_stack([bottom + 0.5, columns]),
        ]
    )
