"""Affines between array index and patient space."""

from __future__ import annotations

import numpy as np
import pytest

from vaeseg.geometry.affine import geometry_from_ras, lps_from_kji, ras_from_ijk, same_grid, to_lps_mm
from vaeseg.records import VolumeGeometry

ROW, COLUMN = np.array([1.0, 0, 0]), np.array([0, 1.0, 0])


def upright(shape: tuple[int, int, int] = (4, 5, 6)) -> VolumeGeometry:
    affine = lps_from_kji(np.array([-40.0, -30.0, 100.0]), ROW, COLUMN, np.array([0, 0, 2.5]), (0.75, 0.5))
    return VolumeGeometry(shape=shape, lps_from_kji=affine)


def test_a_dicom_stack_by_hand() -> None:
    """Row spacing belongs to j, column spacing to i, and RAS has x and y of LPS negated."""
    ras = ras_from_ijk(upright())
    np.testing.assert_allclose(ras @ [0, 0, 0, 1], [40, 30, 100, 1])
    np.testing.assert_allclose(ras @ [1, 0, 0, 1], [39.5, 30, 100, 1])
    np.testing.assert_allclose(ras @ [0, 1, 0, 1], [40, 29.25, 100, 1])
    np.testing.assert_allclose(ras @ [0, 0, 1, 1], [40, 30, 102.5, 1])
    assert upright().spacing_mm == (2.5, 0.75, 0.5)
    assert upright().voxel_volume_mm3 == pytest.approx(2.5 * 0.75 * 0.5)


def test_ras_and_back_is_the_same_grid() -> None:
    """geometry_from_ras undoes ras_from_ijk to the last bit, sheared or not."""
    affine = upright().lps_from_kji.copy()
    affine[1, 0] = 0.6
    sheared = VolumeGeometry(shape=(4, 5, 6), lps_from_kji=affine)
    back = geometry_from_ras((4, 5, 6), ras_from_ijk(sheared))
    np.testing.assert_array_equal(back.lps_from_kji, affine)


def test_volume_of_a_sheared_grid_is_its_determinant() -> None:
    """Shearing moves slices aside and leaves their distance, so the voxel volume stays while the step grows."""
    affine = upright().lps_from_kji.copy()
    affine[1, 0] = 1.0
    sheared = VolumeGeometry(shape=(4, 5, 6), lps_from_kji=affine)
    assert sheared.voxel_volume_mm3 == pytest.approx(2.5 * 0.75 * 0.5)
    assert sheared.spacing_mm[0] == pytest.approx(np.hypot(2.5, 1.0))


@pytest.mark.parametrize(
    "column", [[0.0, 0, 0], [0.75, 0, 0], [0.75, 1e-9, 0], [np.nan, 1, 0], [np.inf, 1, 0], [1e200, 1e200, 0]]
)
def test_a_flat_or_impossible_grid_is_no_geometry(column: list[float]) -> None:
    """Two parallel axes make no volume, also where rounding leaves a determinant that is not quite 0."""
    affine = upright().lps_from_kji.copy()
    affine[:3, 1] = column
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=r"singular|finite"):
        VolumeGeometry(shape=(4, 5, 6), lps_from_kji=affine)


def test_a_small_voxel_is_a_geometry() -> None:
    """Singular is relative to the voxel's size: a micro-CT's voxels are small, not flat."""
    affine = np.diag([1e-3, 1e-3, 1e-3, 1.0])
    assert VolumeGeometry(shape=(2, 2, 2), lps_from_kji=affine).voxel_volume_mm3 == pytest.approx(1e-9)


def test_to_lps_of_voxels() -> None:
    """(k, j, i) rows become millimetres."""
    lps = to_lps_mm(upright(), np.array([[0, 0, 0], [1, 2, 4]]))
    np.testing.assert_allclose(lps, [[-40, -30, 100], [-38, -28.5, 102.5]])


def test_same_grid_is_measured_at_the_far_corner() -> None:
    """A spacing error too small to see at one voxel adds up across the volume."""
    affine = upright((200, 5, 6)).lps_from_kji.copy()
    affine[2, 0] *= 1.0005
    stretched = VolumeGeometry(shape=(200, 5, 6), lps_from_kji=affine)
    assert same_grid(upright((200, 5, 6)), upright((200, 5, 6)))
    assert not same_grid(upright((200, 5, 6)), stretched)
    assert not same_grid(upright((4, 5, 6)), upright((4, 6, 5)))
