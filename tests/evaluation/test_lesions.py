from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from vaeseg.evaluation.lesions import find_components, lesion_mean_hu, longest_diameter_mm, measure_lesions
from vaeseg.records import LesionRecord, VolumeGeometry

SPACING = np.diag([2.0, 0.5, 0.75])


def _geometry(shape: tuple[int, ...], mm_from_kji: np.ndarray = SPACING) -> VolumeGeometry:
    """x along i, y along j, z along k, with the first voxel at (10, 20, 30) mm."""
    affine = np.eye(4)
    affine[:3, :3] = mm_from_kji[::-1]
    affine[:3, 3] = (10.0, 20.0, 30.0)
    return VolumeGeometry(shape=shape, lps_from_kji=affine)  # type: ignore[arg-type]


def _measure(mask: np.ndarray, hu: np.ndarray | None = None) -> tuple[LesionRecord, ...]:
    slices_hu = np.zeros(mask.shape, dtype=np.int16) if hu is None else hu
    return measure_lesions(mask, _geometry(mask.shape), slices_hu, np.arange(mask.shape[1]), np.arange(mask.shape[2]))


def _disc(diameter: float, side: int) -> np.ndarray:
    j, i = np.mgrid[:side, :side] - (side - 1) / 2
    return np.asarray(np.hypot(j, i) <= diameter / 2)


def test_lesions_by_size_with_volume_and_place() -> None:
    """A box of 2 x 3 x 4 voxels comes before a single voxel that lies earlier in the array."""
    mask = np.zeros((6, 10, 12), dtype=bool)
    mask[0, 0, 0] = True
    mask[3:5, 4:7, 6:10] = True
    large, small = _measure(mask)
    assert (large.lesion_index, large.n_voxels, small.lesion_index, small.n_voxels) == (1, 24, 2, 1)
    assert large.volume_ml == pytest.approx(24 * 0.75 / 1000)
    assert large.centroid_lps_mm == pytest.approx((10 + 7.5 * 0.75, 20 + 5 * 0.5, 30 + 3.5 * 2))
    assert small.centroid_lps_mm == pytest.approx((10, 20, 30))


def test_equal_lesions_stand_in_the_order_of_their_first_voxel() -> None:
    """The numbering of a mask is reproducible."""
    mask = np.zeros((3, 5, 9), dtype=bool)
    for voxel in ((2, 0, 0), (0, 4, 0), (0, 0, 8), (0, 0, 2)):
        mask[voxel] = True
    assert [tuple(np.round(lesion.centroid_lps_mm, 3)) for lesion in _measure(mask)] == [
        (11.5, 20.0, 30.0),
        (16.0, 20.0, 30.0),
        (10.0, 22.0, 30.0),
        (10.0, 20.0, 34.0),
    ]


@pytest.mark.parametrize("seed", range(5))
def test_order_of_equal_lesions_holds_for_branching_shapes(seed: int) -> None:
    """Components that meet only in later rows keep the number of their first voxel."""
    mask = np.random.default_rng(seed).random((8, 24, 24)) < 0.1
    components = find_components(mask)
    flat = components.labels.reshape(-1)
    first = [int(np.argmax(flat == n + 1)) for n in range(len(components.boxes))]
    keys = [(-count, voxel) for count, voxel in zip(components.n_voxels, first, strict=True)]
    assert len(keys) > 20
    assert keys == sorted(keys)


def test_voxels_that_touch_at_a_corner_are_one_lesion() -> None:
    """Connectivity is 26, not 6."""
    mask = np.zeros((3, 3, 3), dtype=bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    assert len(_measure(mask)) == 1


@pytest.mark.parametrize("shape", [(1, 1, 9), (1, 3, 3), (2, 2, 2), (3, 1, 3)], ids=str)
def test_every_small_mask_has_as_many_lesions_as_it_has(shape: tuple[int, int, int]) -> None:
    """All masks of a few voxels, such as two that lie two apart, against voxels gathered one by one."""
    places = list(np.ndindex(shape))
    for bits in range(1, 2 ** len(places)):
        voxels = [place for number, place in enumerate(places) if bits >> number & 1]
        mask = np.zeros(shape, dtype=bool)
        mask[tuple(np.transpose(voxels))] = True
        sizes = sorted(map(len, gathered(voxels)), reverse=True)
        assert list(find_components(mask).n_voxels) == sizes, voxels


def gathered(voxels: list[tuple[int, ...]]) -> list[set[tuple[int, ...]]]:
    """Sets of voxels that touch."""
    groups: list[set[tuple[int, ...]]] = []
    for voxel in voxels:
        touched = [group for group in groups if any(np.abs(np.subtract(voxel, one)).max() <= 1 for one in group)]
        groups = [group for group in groups if group not in touched] + [{voxel}.union(*touched)]
    return groups


def test_empty_mask_has_no_lesion() -> None:
    """No tumour is a result without rows."""
    assert _measure(np.zeros((2, 3, 4), dtype=bool)) == ()


def test_single_voxel_measures_its_longer_side() -> None:
    """Half a pixel on each side of the centre: 0.75 mm along columns, not 0."""
    mask = np.zeros((2, 4, 4), dtype=bool)
    mask[1, 2, 3] = True
    assert _measure(mask)[0].longest_axial_diameter_mm == pytest.approx(0.75)


@pytest.mark.parametrize("diameter", [9, 15, 40, 101])
def test_disc_measures_its_diameter(diameter: int) -> None:
    """Within one pixel of the truth, at isotropic 0.7 mm."""
    measured = longest_diameter_mm(_disc(diameter, 120), np.array([[0, 0.7], [0.7, 0], [0, 0]]))
    assert measured == pytest.approx(0.7 * diameter, abs=0.7)


def test_diameter_is_the_greatest_of_all_pairs_of_mid_edges() -> None:
    """The hull short cut gives what comparing all boundary points gives, on a random shape with oblique steps."""
    rng = np.random.default_rng(7)
    plane = rng.random((9, 11)) < 0.3
    mm_from_ji = rng.normal(size=(3, 2))
    j, i = plane.nonzero()
    edges = np.concatenate([np.column_stack([j + a, i + b]) for a, b in ((-0.5, 0), (0.5, 0), (0, -0.5), (0, 0.5))])
    points = edges @ mm_from_ji.T
    expected = np.linalg.norm(points[:, None] - points[None, :], axis=-1).max()
    assert longest_diameter_mm(plane, mm_from_ji) == pytest.approx(expected)


def test_row_of_pixels_measures_its_length() -> None:
    """A line is not degenerate: 5 pixels of 0.75 mm are 3.75 mm."""
    mask = np.zeros((1, 1, 5), dtype=bool)
    mask[:] = True
    assert _measure(mask)[0].longest_axial_diameter_mm == pytest.approx(3.75)


def test_diameter_looks_at_single_slices_only() -> None:
    """A column through 40 slices, 80 mm long, is one pixel wide."""
    mask = np.zeros((40, 3, 3), dtype=bool)
    mask[:, 1, 1] = True
    assert _measure(mask)[0].longest_axial_diameter_mm == pytest.approx(0.75)


def test_volume_of_a_tilted_stack_comes_from_the_determinant() -> None:
    """A shear of 1 mm a slice changes neither volume nor in-plane diameter, but moves the centroid."""
    sheared = np.array([[2.0, 0, 0], [1.0, 0.5, 0], [0, 0, 0.75]])
    mask = np.zeros((3, 2, 2), dtype=bool)
    mask[2, 0, 0] = True
    hu = np.zeros(mask.shape, dtype=np.int16)
    (lesion,) = measure_lesions(mask, _geometry(mask.shape, sheared), hu, np.arange(2), np.arange(2))
    assert lesion.volume_ml == pytest.approx(0.75 / 1000)
    assert lesion.centroid_lps_mm == pytest.approx((10, 22, 34))


def test_mean_hu_weighs_model_pixels_by_native_voxels() -> None:
    """Two of the three native columns lie in the first model column: (2 x 30 + 1 x 90) / 3."""
    mask = np.ones((1, 1, 3), dtype=bool)
    hu = np.array([[[30, 90]]], dtype=np.int16)
    (lesion,) = measure_lesions(mask, _geometry(mask.shape), hu, np.array([0]), np.array([0, 0, 1]))
    assert lesion.mean_hu == pytest.approx(50.0)


def test_mean_hu_of_each_lesion_is_its_own() -> None:
    """Values above int16 sums, several lesions, and slices without any."""
    labels = np.zeros((3, 4, 4), dtype=np.uint16)
    labels[0] = 1
    labels[2, 0, :2] = 2
    hu = np.full((3, 4, 4), -1000, dtype=np.int16)
    hu[0] = 3000
    hu[2, 0, 0] = 100
    np.testing.assert_allclose(lesion_mean_hu(labels, hu, np.arange(4), np.arange(4)), [3000, -450])


def test_mean_hu_of_a_number_that_labels_nothing_is_undefined() -> None:
    """Not 0 HU, which is water."""
    labels = np.full((1, 1, 1), 2, dtype=np.uint16)
    first, second = lesion_mean_hu(labels, np.full((1, 1, 1), 40), np.array([0]), np.array([0]))
    assert math.isnan(first)
    assert second == 40.0


def test_components_are_cropped_and_cover_the_mask() -> None:
    """Every True voxel has a number, everything else 0, back in its place."""
    mask = np.random.default_rng(3).random((6, 20, 20)) < 0.05
    mask[:2] = False
    components = find_components(mask)
    whole = np.zeros(mask.shape, dtype=np.uint16)
    whole[components.box] = components.labels
    np.testing.assert_array_equal(whole > 0, mask)
    assert [int((whole == n + 1).sum()) for n in range(len(components.boxes))] == list(components.n_voxels)


def test_memory_does_not_grow_with_the_volume() -> None:
    """A small tumour in 30 million voxels is measured in under 20 MB."""
    mask = np.zeros((120, 500, 500), dtype=bool)
    mask[50:60, 200:230, 200:230] = True
    hu = np.zeros((120, 64, 64), dtype=np.int16)
    rows = np.zeros(500, dtype=np.intp)
    tracemalloc.start()
    measure_lesions(mask, _geometry(mask.shape), hu, rows, rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


def test_parts_that_do_not_fit_are_refused() -> None:
    """A mask of another grid than its geometry or its HU slices is the caller's mistake."""
    mask = np.zeros((2, 3, 4), dtype=bool)
    with pytest.raises(ValueError, match="its geometry"):
        measure_lesions(mask, _geometry((2, 3, 5)), mask, np.arange(3), np.arange(4))
    with pytest.raises(ValueError, match="rows and columns"):
        measure_lesions(mask, _geometry((2, 3, 4)), mask, np.arange(2), np.arange(4))
