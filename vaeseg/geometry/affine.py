"""Affines between array index and patient space.

DICOM's patient space is LPS (PS3.3 C.7.6.2.1.1), NIfTI's is RAS; names say which.
"""

from __future__ import annotations

import numpy as np

from vaeseg.records import FloatArray, VolumeGeometry

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""x and y change sign; its own inverse."""

SPACING_RANGE_MM = (1e-3, 1e3)
"""Spacing beyond this is damage or another unit, whatever the scanner."""

KJI_FROM_IJK = np.array([[0.0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
"""Reverses the index order; its own inverse."""


def ras_from_ijk(geometry: VolumeGeometry) -> FloatArray:
    """Affine as nibabel has it: (column, row, slice, 1) to RAS mm, (4, 4) float64."""
    return np.asarray(RAS_FROM_LPS @ geometry.lps_from_kji @ KJI_FROM_IJK)


def geometry_from_ras(shape: tuple[int, int, int], ras_from_ijk: FloatArray) -> VolumeGeometry:
    """Geometry of a NIfTI grid.

    Args:
        shape: (K, J, I), the reverse of nibabel's shape.
        ras_from_ijk: (4, 4), nibabel's affine.

    Raises:
        ValueError: the affine is singular or not finite.
    """
    matrix = RAS_FROM_LPS @ np.asarray(ras_from_ijk, dtype=np.float64) @ KJI_FROM_IJK
    return VolumeGeometry(shape=shape, lps_from_kji=matrix)


def lps_from_kji(
    first_position: FloatArray,
    row_direction: FloatArray,
    column_direction: FloatArray,
    step: FloatArray,
    pixel_spacing_mm: tuple[float, float],
) -> FloatArray:
    """Affine of a stack of DICOM slices (PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1).

    Args:
        first_position: (3,) ImagePositionPatient of slice 0, the centre of its first pixel, LPS mm.
        row_direction: (3,) unit vector along which the column index i grows.
        column_direction: (3,) unit vector along which the row index j grows.
        step: (3,) from one slice's first pixel to the next's, LPS mm; not along the normal for a tilted gantry.
        pixel_spacing_mm: PixelSpacing, between rows first, then between columns.

    Returns:
        (4, 4) float64.
    """
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = np.asarray(column_direction) * pixel_spacing_mm[0]
    affine[:3, 2] = np.asarray(row_direction) * pixel_spacing_mm[1]
    affine[:3, 3] = first_position
    return affine


def to_lps_mm(geometry: VolumeGeometry, kji: FloatArray) -> FloatArray:
    """Patient coordinates of voxel coordinates: (N, 3) k, j, i to (N, 3) LPS mm."""
    affine = geometry.lps_from_kji
    return np.asarray(kji) @ affine[:3, :3].T + affine[:3, 3]


def same_grid(one: VolumeGeometry, other: VolumeGeometry, tolerance_voxels: float = 0.05) -> bool:
    """Whether two grids have the same shape and no voxel centre further apart than `tolerance_voxels` voxels."""
    if one.shape != other.shape:
        return False
    corners = np.array([[k, j, i] for k in (0, 1) for j in (0, 1) for i in (0, 1)], dtype=np.float64)
    corners *= np.array(one.shape) - 1
    distance = np.linalg.norm(to_lps_mm(one, corners) - to_lps_mm(other, corners), axis=1).max()
    return bool(distance <= tolerance_voxels * min(one.spacing_mm))
