"""Labels are found by name, and brought onto the grid of their series or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vaeseg.config import ReadingConfig
from vaeseg.errors import ReadingError
from vaeseg.io.labels import find_labels, label_names, read_label_on_grid
from vaeseg.io.manifest import SeriesManifest, SliceFile, matrix_as_tuples
from vaeseg.io.nifti import write_nifti
from vaeseg.records import Reason, SeriesRef, VolumeGeometry, Warn

CONFIG = ReadingConfig()
GRID = VolumeGeometry(
    shape=(4, 6, 8), lps_from_kji=np.array([[0, 0, 1, 5], [0, 1, 0, 6], [2, 0, 0, 7], [0, 0, 0, 1.0]])
)


def manifest(kind: str, uid: str, path: str) -> SeriesManifest:
    return SeriesManifest(
        kind=kind,  # type: ignore[arg-type]
        series_key=uid,
        ref=SeriesRef(series_instance_uid=uid, study_instance_uid="1.2"),
        files=(SliceFile(path=path, size=1),),
        shape=GRID.shape,
        lps_from_kji=matrix_as_tuples(GRID.lps_from_kji),
    )


def shifted(mm: float) -> VolumeGeometry:
    affine = GRID.lps_from_kji.copy()
    affine[0, 3] += mm
    return VolumeGeometry(shape=GRID.shape, lps_from_kji=affine)


def test_a_dicom_series_is_matched_by_its_uid(tmp_path: Path) -> None:
    """`<uid>.nii.gz` belongs to the series; another file belongs to none and is counted."""
    for name in ("1.2.3.nii.gz", "1.2.9.nii.gz", "notes.txt"):
        (tmp_path / name).touch()
    found, unmatched = find_labels(tmp_path, label_names([("1.2.3", "1.2.3", None)]))
    assert found == {"1.2.3": tmp_path / "1.2.3.nii.gz"}
    assert unmatched == 1


@pytest.mark.parametrize("image", ["case_7.nii.gz", "sub/case_7_0000.nii.gz", "case_7.nii"])
def test_a_nifti_series_is_matched_by_its_name(tmp_path: Path, image: str) -> None:
    """Suffixes and nnU-Net's channel number do not matter."""
    (tmp_path / "case_7.nii.gz").touch()
    found, unmatched = find_labels(tmp_path, label_names([("1.5", "1.5", image)]))
    assert (found, unmatched) == ({"1.5": tmp_path / "case_7.nii.gz"}, 0)


def test_a_label_whose_name_several_images_have_is_nobodys(tmp_path: Path) -> None:
    """Each patient has a directory with a `ct.nii.gz`: the label is counted, and those named by UID are found."""
    for name in ("ct.nii.gz", "1.6.nii.gz", "lung.nii.gz"):
        (tmp_path / name).touch()
    images = {"1.5": "a/ct.nii.gz", "1.6": "b/ct.nii", "1.7": "c/ct_0000.nii.gz", "1.8": "c/lung.nii.gz"}
    found, unmatched = find_labels(tmp_path, label_names((uid, uid, image) for uid, image in images.items()))
    assert found == {"1.6": tmp_path / "1.6.nii.gz", "1.8": tmp_path / "lung.nii.gz"}
    assert unmatched == 1


def test_a_label_may_be_that_of_a_damaged_image(tmp_path: Path) -> None:
    """Which patient's it is does not depend on whether the other image can be read tonight."""
    (tmp_path / "ct.nii.gz").touch()
    names = label_names([("1.5", "1.5", "p1/ct.nii.gz")], refused=["p2/ct.nii.gz", "p2/other.nii"])
    assert find_labels(tmp_path, names) == ({}, 1)


def test_volumes_of_one_dicom_series_share_its_label(tmp_path: Path) -> None:
    """Unless one has a label of its own."""
    for name in ("1.2.nii.gz", "1.2-3.nii.gz"):
        (tmp_path / name).touch()
    found, unmatched = find_labels(tmp_path, label_names((key, "1.2", None) for key in ("1.2", "1.2-2", "1.2-3")))
    assert {key: path.name for key, path in found.items()} == {
        "1.2": "1.2.nii.gz",
        "1.2-2": "1.2.nii.gz",
        "1.2-3": "1.2-3.nii.gz",
    }
    assert unmatched == 0


def test_a_label_on_the_same_grid_is_taken_as_it_is(tmp_path: Path) -> None:
    """What is above zero is tumour."""
    values = np.zeros(GRID.shape, dtype=np.uint8)
    values[1, 2, 3], values[2, 2, 3] = 5, 5
    write_nifti(tmp_path / "label.nii.gz", values, GRID)
    label = read_label_on_grid(tmp_path / "label.nii.gz", GRID, CONFIG)
    np.testing.assert_array_equal(label.mask, values > 0)
    assert (label.values, label.warnings) == ((5, 5), ())


@pytest.mark.parametrize("mm", [0.0, 0.1])
def test_a_label_of_several_values_is_told(tmp_path: Path, mm: float) -> None:
    """All above zero are taken, on its own grid and on another; an empty label has no value."""
    values = np.zeros(GRID.shape, dtype=np.uint8)
    write_nifti(tmp_path / "empty.nii.gz", values, shifted(mm))
    values[1, 2, 3], values[2, 2, 3] = 1, 5
    write_nifti(tmp_path / "label.nii.gz", values, shifted(mm))
    label, empty = (read_label_on_grid(tmp_path / f"{name}.nii.gz", GRID, CONFIG) for name in ("label", "empty"))
    np.testing.assert_array_equal(label.mask, values > 0)
    assert (label.values, empty.values) == ((1, 5), (0, 0))
    assert label.warnings[0] == Warn.SEVERAL_LABEL_VALUES
    assert Warn.SEVERAL_LABEL_VALUES not in empty.warnings


def test_one_value_of_a_label_can_be_chosen(tmp_path: Path) -> None:
    """Of organs 1 and 5, the latter alone."""
    values = np.zeros(GRID.shape, dtype=np.uint8)
    values[1, 2, 3], values[2, 2, 3] = 1, 5
    write_nifti(tmp_path / "l.nii.gz", values, GRID)
    found = read_label_on_grid(tmp_path / "l.nii.gz", GRID, CONFIG, label_value=5)
    np.testing.assert_array_equal(np.argwhere(found.mask), [[2, 2, 3]])
    assert found.warnings == ()


@pytest.mark.parametrize("label_value", [None, 1])
def test_values_that_are_whole_but_for_rounding_are_those_numbers(tmp_path: Path, label_value: int | None) -> None:
    """0.9999 is a 1, and 0.0001 nothing."""
    values = np.zeros(GRID.shape, dtype=np.float32)
    values[1, 2, 3], values[2, 2, 3] = 0.9999, 0.0001
    write_nifti(tmp_path / "l.nii.gz", values, GRID)
    found = read_label_on_grid(tmp_path / "l.nii.gz", GRID, CONFIG, label_value)
    np.testing.assert_array_equal(np.argwhere(found.mask), [[1, 2, 3]])


@pytest.mark.parametrize("label_value", [None, 1])
@pytest.mark.parametrize("value", [0.3, 0.98, 1.5])
def test_labels_of_fractions_are_refused(tmp_path: Path, value: float, label_value: int | None) -> None:
    """Interpolated between 0 and 2 there would be a 1 that nobody drew, and a tumour larger than it was drawn."""
    values = np.zeros(GRID.shape, dtype=np.float32)
    values[1, 2, 3] = value
    write_nifti(tmp_path / "l.nii.gz", values, GRID)
    with pytest.raises(ReadingError, match=f"^fractional_label: label: a value of {value}") as caught:
        read_label_on_grid(tmp_path / "l.nii.gz", GRID, CONFIG, label_value)
    assert caught.value.reason == Reason.FRACTIONAL_LABEL


def test_a_label_that_ends_before_its_image_is_told_from_one_that_does_not(tmp_path: Path) -> None:
    """Beyond it nobody looked; with its axes mirrored it reaches everywhere."""
    short = VolumeGeometry(shape=(3, 6, 8), lps_from_kji=GRID.lps_from_kji)
    mirrored = VolumeGeometry(
        shape=GRID.shape,
        lps_from_kji=GRID.lps_from_kji @ np.array([[1, 0, 0, 0], [0, -1, 0, 5], [0, 0, 1, 0], [0, 0, 0, 1]]),
    )
    found = {}
    for name, grid in (("short", short), ("mirrored", mirrored)):
        write_nifti(tmp_path / f"{name}.nii.gz", np.ones(grid.shape, dtype=np.uint8), grid)
        found[name] = read_label_on_grid(tmp_path / f"{name}.nii.gz", GRID, CONFIG)
    assert found["short"].warnings == (Warn.LABEL_RESAMPLED, Warn.LABEL_COVERS_PART)
    assert found["mirrored"].warnings == (Warn.LABEL_RESAMPLED,)
    assert found["mirrored"].mask.all()


def test_a_label_on_a_finer_grid_is_resampled(tmp_path: Path) -> None:
    """Half the spacing along i: each voxel takes the nearest label voxel."""
    affine = GRID.lps_from_kji.copy()
    affine[0, 2] = 0.5
    fine = VolumeGeometry(shape=(4, 6, 16), lps_from_kji=affine)
    values = np.zeros(fine.shape, dtype=np.uint8)
    values[1, 2, 6] = 1  # the centre of voxel i = 3 of the coarse grid
    write_nifti(tmp_path / "label.nii.gz", values, fine)
    label = read_label_on_grid(tmp_path / "label.nii.gz", GRID, CONFIG)
    assert [tuple(map(int, voxel)) for voxel in np.argwhere(label.mask)] == [(1, 2, 3)]
    assert label.warnings == (Warn.LABEL_RESAMPLED,)


def test_a_label_that_lies_elsewhere_is_refused(tmp_path: Path) -> None:
    """Half of it outside the series: they do not belong together."""
    write_nifti(tmp_path / "label.nii.gz", np.ones(GRID.shape, dtype=np.uint8), shifted(4.0))
    with pytest.raises(ReadingError) as caught:
        read_label_on_grid(tmp_path / "label.nii.gz", GRID, CONFIG)
    assert caught.value.reason == Reason.LABEL_GEOMETRY_MISMATCH
    assert "50.0%" in caught.value.detail


@pytest.mark.parametrize(("shape", "is_refused"), [(GRID.shape, True), ((4, 6, 7), False)])
def test_a_label_with_a_wrong_affine_is_refused(tmp_path: Path, shape: tuple[int, int, int], is_refused: bool) -> None:
    """As many voxels as its image has, and a size of half: it lies inside, in a corner. A crop lies there rightly."""
    affine = GRID.lps_from_kji.copy()
    affine[:3, :3] /= 2
    values = np.zeros(shape, dtype=np.uint8)
    values[2, 3, 4] = 1
    write_nifti(tmp_path / "label.nii.gz", values, VolumeGeometry(shape=shape, lps_from_kji=affine))
    if not is_refused:
        warnings = read_label_on_grid(tmp_path / "label.nii.gz", GRID, CONFIG).warnings
        assert warnings == (Warn.LABEL_RESAMPLED, Warn.LABEL_COVERS_PART)
        return
    with pytest.raises(ReadingError, match="is its affine right") as caught:
        read_label_on_grid(tmp_path / "label.nii.gz", GRID, CONFIG)
    assert caught.value.reason == Reason.LABEL_GEOMETRY_MISMATCH
