"""From an MSD data set to slices in memory."""

import gzip
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from training_factories import slice_set, write_msd

from vaeseg.config import PreprocessingConfig, ReadingConfig
from vaeseg.errors import TrainingError
from vaeseg.io.msd import read_msd
from vaeseg.training.slices import SliceSet, load_slices

PREPROCESSING = PreprocessingConfig(image_size=64)


def load(root: Path, preprocessing: PreprocessingConfig = PREPROCESSING, with_labels: bool = True) -> SliceSet:
    return load_slices(read_msd(root), preprocessing, ReadingConfig(), with_labels)


def test_slices_on_their_own_grid_come_back_exactly(tmp_path: Path) -> None:
    """Where the model grid is the native one, HU, labels and order are those of the files."""
    slices, expected = load(write_msd(tmp_path)), slice_set(5, 4)
    assert np.array_equal(slices.images_hu, expected.images_hu)
    assert np.array_equal(slices.labels(np.arange(20)), expected.labels(np.arange(20)))
    assert slices.subjects == expected.subjects
    assert np.array_equal(slices.subject_of_slice, expected.subject_of_slice)
    assert slices.refused == ()


def test_mirrored_files_are_brought_into_axial_order(tmp_path: Path) -> None:
    """A file stored from head to feet, and left to right, gives the same slices."""
    write_msd(tmp_path)
    expected = load(tmp_path)
    for folder in ("imagesTr", "labelsTr"):
        path = tmp_path / folder / "s1.nii.gz"
        image = nibabel.load(path)
        ornt = nibabel.orientations.axcodes2ornt(("R", "P", "I"))
        data = nibabel.Nifti1Image(np.asanyarray(image.dataobj).copy(), image.affine).as_reoriented(ornt)
        nibabel.save(data, path)
    again = load(tmp_path)
    assert np.array_equal(again.images_hu, expected.images_hu)
    assert again.digest != expected.digest


def test_coarser_grid_averages(tmp_path: Path) -> None:
    """On a grid of half the side each pixel is the mean of four."""
    write_msd(tmp_path)
    fine, coarse = load(tmp_path), load(tmp_path, PreprocessingConfig(image_size=32))
    means = fine.images_hu.reshape(20, 32, 2, 32, 2).mean(axis=(2, 4))
    assert np.abs(coarse.images_hu - means).max() <= 0.5


def test_range_follows_the_preprocessing(tmp_path: Path) -> None:
    """The window is the same for all slices; min-max is each subject's own, over all its slices."""
    write_msd(tmp_path)
    assert np.array_equal(load(tmp_path).ranges_hu, np.tile(np.float32([-1000, 400]), (20, 1)))
    slices = load(tmp_path, replace(PREPROCESSING, intensity="minmax"))
    for subject in range(5):
        own = slices.subject_of_slice == subject
        assert (slices.ranges_hu[own] == [slices.images_hu[own].min(), slices.images_hu[own].max()]).all()


def test_stage_one_needs_no_labels(tmp_path: Path) -> None:
    """Images of `test` are read for the autoencoder, and left out where labels are needed."""
    write_msd(tmp_path)
    listed = (tmp_path / "dataset.json").read_text().replace('"test": []', '"test": ["./imagesTs/t.nii.gz"]')
    (tmp_path / "dataset.json").write_text(listed)
    (tmp_path / "imagesTs").mkdir()
    (tmp_path / "imagesTs" / "t.nii.gz").write_bytes((tmp_path / "imagesTr" / "s0.nii.gz").read_bytes())
    unlabelled = load(tmp_path, with_labels=False)
    assert unlabelled.subjects == ("s0", "s1", "s2", "s3", "s4", "t")
    assert unlabelled.packed_labels is None
    assert not unlabelled.holds_label().any()
    with pytest.raises(ValueError, match="no labels"):
        unlabelled.labels(np.arange(2))
    assert load(tmp_path).subjects == ("s0", "s1", "s2", "s3", "s4")


def test_damaged_items_are_left_out_and_counted(tmp_path: Path) -> None:
    """A damaged image, a lost label and a label on another grid cost their subject, with a reason each."""
    write_msd(tmp_path)
    path = tmp_path / "imagesTr" / "s0.nii.gz"
    path.write_bytes(path.read_bytes()[:-20])
    (tmp_path / "labelsTr" / "s1.nii.gz").unlink()
    wrong = nibabel.Nifti1Image(np.zeros((64, 64, 2), dtype=np.int16), np.diag([-1.0, -1.0, 3.0, 1.0]))
    (tmp_path / "labelsTr" / "s2.nii.gz").write_bytes(gzip.compress(wrong.to_bytes()))
    slices = load(tmp_path)
    assert slices.subjects == ("s3", "s4")
    reasons = dict(slices.refused)
    assert reasons["s0"].startswith("damaged_file")
    assert reasons["s1"].startswith("unreadable_file")
    assert reasons["s2"].startswith("label_geometry_mismatch")


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    """When every volume is damaged there is nothing to train on, and the first reason is told."""
    write_msd(tmp_path, n_subjects=2)
    for path in (tmp_path / "imagesTr").iterdir():
        path.write_bytes(b"junk")
    with pytest.raises(TrainingError, match="none of 2 volumes can be read; the first is damaged_file"):
        load(tmp_path)


def test_digest_follows_the_bytes(tmp_path: Path) -> None:
    """The same files have the same digest; stage one does not look at labels."""
    write_msd(tmp_path)
    assert load(tmp_path).digest == load(tmp_path).digest
    assert load(tmp_path).digest != load(tmp_path, with_labels=False).digest
