"""To the model's grid and back: means are kept, padding is where it should be, nothing moves."""

from __future__ import annotations

import numpy as np
import pytest

from vaeseg.geometry.resample import (
    covered_by_slice,
    label_in_grid,
    label_to_model_grid,
    mask_to_native,
    model_pixel_of_voxel,
    share_inside,
    to_model_grid,
)
from vaeseg.records import VolumeGeometry

SQUARE = (2.5, 0.5, 0.5)


def grid(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], origin: tuple[float, float, float]
) -> VolumeGeometry:
    """k along z, j along y, i along x; origin is x, y, z of voxel 0."""
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0, spacing[2]], [0, spacing[1], 0], [spacing[0], 0, 0]]
    affine[:3, 3] = origin
    return VolumeGeometry(shape=shape, lps_from_kji=affine)


def test_whole_factor_is_the_block_mean() -> None:
    """64 to 16 pixels: each is the mean of 4 x 4 native ones, rounded."""
    volume = np.random.default_rng(0).integers(-1024, 3000, (3, 64, 64)).astype(np.int16)
    blocks = volume.reshape(3, 16, 4, 16, 4).mean(axis=(2, 4))
    np.testing.assert_array_equal(to_model_grid(volume, SQUARE, 16), np.rint(blocks))


def test_fractional_factor_keeps_the_mean() -> None:
    """Area weights: the mean of the slice is the mean of its resampled form."""
    volume = np.random.default_rng(1).integers(-1024, 3000, (2, 60, 60)).astype(np.int16)
    np.testing.assert_allclose(to_model_grid(volume, SQUARE, 16).mean(), volume.mean(), atol=0.5)


@pytest.mark.parametrize(
    ("shape", "spacing", "size"),
    [
        ((512, 512), (0.7, 0.7), 256),
        ((512, 512), (0.7, 0.8), 256),
        ((512, 512), (0.8, 0.7), 256),
        ((512, 512), (0.7, 0.7), 200),
        ((60, 96), (0.9, 0.7), 32),
        ((96, 60), (0.7, 0.7), 32),
    ],
)
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_each_pixel_is_the_mean_of_the_area_it_covers(
    shape: tuple[int, int], spacing: tuple[float, float], size: int, dtype: type
) -> None:
    """Against the area under the slice, taken from its running sums; the minimum lies all round it."""
    plane: np.ndarray = np.random.default_rng(3).integers(-1024, 3000, shape).astype(dtype)
    pixel_mm = max(shape[0] * spacing[0], shape[1] * spacing[1]) / size
    area = plane.astype(np.float64) - plane.min()
    for axis in (0, 1):
        n_native, scale = shape[axis], pixel_mm / spacing[axis]
        edges = (n_native - size * scale) / 2 + np.arange(size + 1) * scale
        running = np.concatenate([np.zeros_like(area.take([0], axis)), area.cumsum(axis)], axis)
        at_edges = np.apply_along_axis(
            lambda line, n=n_native, at=edges: np.interp(at, np.arange(n + 1), line), axis, running
        )
        area = np.diff(at_edges, axis=axis) / scale
    found = to_model_grid(plane[None], (1.0, *spacing), size)[0]
    np.testing.assert_allclose(found, area + plane.min(), atol=0.51)


def test_same_size_is_the_identity() -> None:
    """Nothing is blurred where the grids agree."""
    volume = np.random.default_rng(2).integers(-1024, 3000, (2, 16, 16)).astype(np.int16)
    np.testing.assert_array_equal(to_model_grid(volume, SQUARE, 16), volume)


def test_a_finer_model_grid_interpolates() -> None:
    """A linear ramp stays a linear ramp between native centres, and is held at the edge."""
    ramp = np.broadcast_to(np.arange(8, dtype=np.int16) * 40, (1, 8, 8))
    fine = to_model_grid(ramp, SQUARE, 16)[0, 8]
    assert fine.tolist() == [0, 10, 30, 50, 70, 90, 110, 130, 150, 170, 190, 210, 230, 250, 270, 280]


def test_a_slice_that_is_not_square_is_padded_in_the_middle() -> None:
    """8 rows of 16 columns: four rows of the minimum above, four below, pixels not stretched."""
    volume = np.arange(128, dtype=np.int16).reshape(1, 8, 16) + 50
    model = to_model_grid(volume, SQUARE, 16)[0]
    np.testing.assert_array_equal(model[4:12], volume[0])
    assert (model[:4] == 50).all()
    assert (model[12:] == 50).all()


def test_pixels_that_are_not_square_are_made_square() -> None:
    """Rows twice as far apart as columns: 8 rows fill the height of 16 columns."""
    volume = np.full((1, 8, 16), 100, dtype=np.int16)
    volume[0, 3] = 900
    model = to_model_grid(volume, (1.0, 1.0, 0.5), 16)[0]
    assert (model != 100).any(axis=1).tolist() == [j in (5, 6, 7, 8) for j in range(16)]
    assert model[:, 0].astype(int).sum() == 16 * 100 + 2 * 800


@pytest.mark.parametrize(
    ("shape", "spacing"), [((3, 64, 64), SQUARE), ((3, 40, 64), SQUARE), ((3, 32, 64), (1, 1, 0.5))]
)
def test_a_mask_goes_to_native_and_back(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> None:
    """Nearest out, half covered back: a model mask inside the slice survives the round trip."""
    mask = np.zeros((3, 16, 16), dtype=bool)
    mask[1, 5:9, 6:12] = True
    mask[2, 7, 7] = True
    native = mask_to_native(mask, shape, spacing)
    assert native.shape == shape
    np.testing.assert_array_equal(label_to_model_grid(native, spacing, 16), mask)


def test_model_pixel_of_each_native_voxel() -> None:
    """By hand: 6 rows and 12 columns of 1 mm on 4 model pixels of 3 mm."""
    rows, columns = model_pixel_of_voxel((1, 6, 12), (1.0, 1.0, 1.0), 4)
    assert columns.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert rows.tolist() == [1, 1, 1, 2, 2, 2]


def test_centres_on_the_border_of_two_pixels_go_one_way() -> None:
    """Where height and width differ by an odd number all centres of one axis do; none is doubled or left out."""
    for spacing in np.random.default_rng(0).uniform(0.4, 1.2, 500).round(4):
        _, columns = model_pixel_of_voxel((1, 96, 61), (2.5, spacing, spacing), 96)
        assert np.diff(columns).tolist() == [1] * 60, spacing


def test_what_int16_cannot_hold_takes_its_nearest_value() -> None:
    """Instead of wrapping round to the other sign."""
    volume = np.zeros((1, 8, 8), dtype=np.float32)
    volume[0, :2, :2], volume[0, 2:4, :2] = 40000, -40000
    assert to_model_grid(volume, SQUARE, 4)[0, :2, 0].tolist() == [32767, -32768]


@pytest.mark.parametrize(
    ("shape", "spacing", "rows", "columns"),
    [
        ((1, 96, 96), (1, 0.7, 0.7), (0, 64), (0, 64)),
        ((1, 32, 64), (1, 1, 1), (16, 48), (0, 64)),
        ((1, 64, 16), (1, 1, 2), (0, 64), (16, 48)),
        ((1, 10, 200), (1, 1, 1), (30, 34), (0, 64)),
    ],
)
def test_what_a_slice_covers_of_the_model_grid(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    rows: tuple[int, int],
    columns: tuple[int, int],
) -> None:
    """All of it for a square slice; the middle for others: 10 of 200 rows are 3.2 of 64, with four centres inside."""
    assert covered_by_slice(shape, spacing, 64) == (slice(*rows), slice(*columns))


def test_label_in_a_shifted_and_coarser_grid() -> None:
    """By hand: a label voxel of 1 mm at (x, y, z) = (4, 3, 2) lands in the target voxel whose centre it holds."""
    label = np.zeros((4, 6, 8), dtype=bool)
    label[2, 3, 4] = True
    target = grid((3, 3, 3), (1.0, 2.0, 2.0), (2.0, 1.0, 1.0))
    found = label_in_grid(label, grid((4, 6, 8), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)), target)
    assert np.argwhere(found).tolist() == [[1, 1, 1]]


def test_label_outside_its_grid_is_false() -> None:
    """A target larger than the label's grid is padded, not wrapped."""
    label = np.ones((2, 2, 2), dtype=bool)
    found = label_in_grid(label, grid((2, 2, 2), (1, 1, 1), (0, 0, 0)), grid((4, 4, 4), (1, 1, 1), (-1, -1, -1)))
    expected = np.zeros((4, 4, 4), dtype=bool)
    expected[1:3, 1:3, 1:3] = True
    np.testing.assert_array_equal(found, expected)


def test_a_label_on_the_borders_of_a_grid_does_not_depend_on_where_the_patient_lay() -> None:
    """Each centre lies between two voxels of a label twice as fine: rounding of the origin decided which it took."""
    rng = np.random.default_rng(0)
    label = np.zeros((2, 32, 32), dtype=bool)
    label[:, 3:14, 5:16] = True
    for origin, side in zip(
        rng.uniform(-300, 300, (200, 3)).round(3), rng.uniform(0.5, 0.98, 200).round(6), strict=True
    ):
        fine = grid((2, 32, 32), (1.0, side / 2, side / 2), tuple(origin - [side / 4, side / 4, 0]))
        found = label_in_grid(label, fine, grid((2, 16, 16), (1.0, side, side), tuple(origin)))
        np.testing.assert_array_equal(found, label[:, 1::2, 1::2])


def test_label_in_a_mirrored_grid() -> None:
    """Reversed axes give the reversed array."""
    label = np.random.default_rng(3).random((3, 4, 5)) > 0.5
    geometry = grid((3, 4, 5), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    mirrored = grid((3, 4, 5), (-1.0, -1.0, -1.0), (4.0, 3.0, 2.0))
    np.testing.assert_array_equal(label_in_grid(label, geometry, mirrored), label[::-1, ::-1, ::-1])


def test_share_inside() -> None:
    """Half of the voxels of a grid shifted by half its length are inside; no voxels count as all inside."""
    geometry = grid((4, 4, 4), (1, 1, 1), (0, 0, 0))
    voxels = np.argwhere(np.ones((4, 4, 4)))
    assert share_inside(voxels, geometry, grid((4, 4, 4), (1, 1, 1), (2, 0, 0))) == 0.5
    assert share_inside(voxels[:0], geometry, geometry) == 1.0
