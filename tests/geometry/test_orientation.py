"""Axial order: every permutation and mirroring of the axes keeps each voxel where it is."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from vaeseg.geometry.affine import lps_from_kji, to_lps_mm
from vaeseg.geometry.orientation import axial_geometry, axial_order
from vaeseg.records import VolumeGeometry

ORDERS = [(axes, signs) for axes in permutations(range(3)) for signs in product((1, -1), repeat=3)]


def turned(axes: tuple[int, ...], signs: tuple[int, ...]) -> VolumeGeometry:
    """A 3 x 4 x 5 grid whose array axis n runs along patient axis axes[n] in direction signs[n]."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for n, (axis, sign, spacing) in enumerate(zip(axes, signs, (2.5, 0.75, 0.5), strict=True)):
        affine[axis, n] = sign * spacing
    affine[:3, 3] = (-7.0, 11.0, 13.0)
    return VolumeGeometry(shape=(3, 4, 5), lps_from_kji=affine)


@pytest.mark.parametrize(("axes", "signs"), ORDERS)
def test_each_voxel_stays_in_its_place(axes: tuple[int, ...], signs: tuple[int, ...]) -> None:
    """The array of world positions, put into axial order, equals the world positions of the axial geometry."""
    geometry = turned(axes, signs)
    order, axial = axial_order(geometry), axial_geometry(geometry)
    world = to_lps_mm(geometry, np.moveaxis(np.indices(geometry.shape), 0, -1).reshape(-1, 3)).reshape(3, 4, 5, 3)
    expected = to_lps_mm(axial, np.moveaxis(np.indices(axial.shape), 0, -1).reshape(-1, 3)).reshape(*axial.shape, 3)
    for axis in range(3):
        np.testing.assert_allclose(order.to_axial(world[..., axis]), expected[..., axis], atol=1e-12)


@pytest.mark.parametrize(("axes", "signs"), ORDERS)
def test_axial_means_head_back_left(axes: tuple[int, ...], signs: tuple[int, ...]) -> None:
    """k grows to the head, j to the back, i to the left, and the way back is exact."""
    geometry = turned(axes, signs)
    axial = axial_geometry(geometry).lps_from_kji[:3, :3]
    assert axial[2, 0] > 0
    assert axial[1, 1] > 0
    assert axial[0, 2] > 0
    order = axial_order(geometry)
    array = np.arange(60).reshape(3, 4, 5)
    np.testing.assert_array_equal(order.from_axial(order.to_axial(array)), array)


def test_an_upright_axial_stack_is_left_as_it_is() -> None:
    """The identity, so that the common case costs nothing."""
    order = axial_order(turned((2, 1, 0), (1, 1, 1)))
    assert order.axes == (0, 1, 2)
    assert order.mirrored == (False, False, False)


def test_an_oblique_stack_takes_the_nearest_axes() -> None:
    """A coronal stack tilted by 30 degrees becomes axial by its greatest components."""
    angle = np.radians(30)
    column = np.array([0, -np.sin(angle), -np.cos(angle)])
    row = np.array([1.0, 0, 0])
    affine = lps_from_kji(np.zeros(3), row, column, 2 * np.cross(row, column), (1.0, 1.0))
    geometry = VolumeGeometry(shape=(3, 4, 5), lps_from_kji=affine)
    assert axial_order(geometry).axes == (1, 0, 2)
    assert axial_geometry(geometry).voxel_volume_mm3 == pytest.approx(2.0)
