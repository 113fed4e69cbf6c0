"""One volume to rows: read, axial order, model grid, whole steps, label bits; and whatever is wrong is a value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from factories import SERIES_UID, SHAPE, stored_values, write_nifti, write_series

from vaeseg.config import PreprocessingConfig, ReadingConfig
from vaeseg.errors import UsageError
from vaeseg.io.archive import scan_archive
from vaeseg.io.dataset_manifest import Recipe, RefusedItem
from vaeseg.io.dicom import SubjectKeyer
from vaeseg.io.identity import content_token
from vaeseg.io.slices import PreparedVolume
from vaeseg.training.preparation import PreparationItem, archive_items, organ_value, prepare_item

READING = ReadingConfig()
RECIPE = Recipe(preprocessing=PreprocessingConfig(image_size=16, window_low_hu=0, window_high_hu=255))
LPS = np.diag([-0.5, -0.5, 2.5, 1.0])
"""Axial already: i to the left, j to the back, k to the head."""
RAS = np.diag([0.5, 0.5, 2.5, 1.0])
"""As most NIfTI files come: rows and columns run the other way."""


def item(folder: Path, name: str = "case", label: bool = True) -> PreparationItem:
    return PreparationItem(
        name=name,
        subject=name,
        image=str(folder / f"{name}.nii"),
        label=str(folder / f"{name}-label.nii") if label else "",
    )


def write_case(folder: Path, affine: np.ndarray = LPS, name: str = "case") -> tuple[np.ndarray, np.ndarray]:
    """Image and label on the model grid of 16 x 16, as (K, J, I); label values 0, 1 and 2."""
    rng = np.random.default_rng(3)
    image, label = rng.integers(0, 256, (3, 16, 16)).astype(np.int16), rng.integers(0, 3, (3, 16, 16)).astype(np.uint8)
    write_nifti(folder / f"{name}.nii", image.transpose(2, 1, 0), affine)
    write_nifti(folder / f"{name}-label.nii", label.transpose(2, 1, 0), affine)
    return image, label


def prepared(*args: object, with_labels: bool = True) -> PreparedVolume:
    outcome = prepare_item(*args, READING, with_labels)  # type: ignore[arg-type]
    assert isinstance(outcome, PreparedVolume), outcome
    return outcome


def test_pixels_and_labels_are_those_of_the_file(tmp_path: Path) -> None:
    """On the model grid already, with a window of 255 HU, HU are the steps, and bits the label's pixels above 0."""
    image, label = write_case(tmp_path)
    volume = prepared(item(tmp_path), RECIPE)
    assert np.array_equal(volume.slices.images, image)
    assert np.array_equal(volume.slices.labels(np.arange(3)), label > 0)
    assert volume.spacing_mm == (2.5, 0.5, 0.5)
    assert volume.tokens == (content_token(image),)
    assert (volume.subject, volume.series) == ("case", "case")


def test_slices_come_in_axial_order(tmp_path: Path) -> None:
    """A file whose rows and columns run the other way is mirrored with its label; the token is of axial order."""
    image, label = write_case(tmp_path, RAS)
    volume = prepared(item(tmp_path), RECIPE)
    assert np.array_equal(volume.slices.images, image[:, ::-1, ::-1])
    assert np.array_equal(volume.slices.labels(np.arange(3)), label[:, ::-1, ::-1] > 0)
    assert volume.tokens == (content_token(image[:, ::-1, ::-1]),)


@pytest.mark.parametrize("organ", [1, 2])
def test_an_organ_is_one_label_value(tmp_path: Path, organ: int) -> None:
    """The other organ's voxels are background."""
    _, label = write_case(tmp_path)
    recipe = Recipe(preprocessing=RECIPE.preprocessing, organ=organ)
    assert np.array_equal(prepared(item(tmp_path), recipe).slices.labels(np.arange(3)), label == organ)


def test_minmax_is_of_the_volume_on_the_model_grid(tmp_path: Path) -> None:
    """The darkest pixel of the volume is 0 and the brightest 65535, not those of each slice."""
    image = np.zeros((2, 16, 16), dtype=np.int16)
    image[0], image[1, 0, 0] = 100, 300
    write_nifti(tmp_path / "case.nii", image.transpose(2, 1, 0), LPS)
    recipe = Recipe(preprocessing=PreprocessingConfig(image_size=16, intensity="minmax"), bits=16)
    images = prepared(item(tmp_path, label=False), recipe, with_labels=False).slices.images
    assert (images[0] == 21845).all()
    assert (images[1, 0, 0], images[1, 0, 1]) == (65535, 0)


def test_without_labels_none_is_read(tmp_path: Path) -> None:
    """A data set for stage one needs none, and does not look at one that is there."""
    write_case(tmp_path)
    (tmp_path / "case-label.nii").write_bytes(b"damaged")
    assert prepared(item(tmp_path), RECIPE, with_labels=False).slices.packed_labels is None


def test_damage_is_a_value_with_its_reason(tmp_path: Path) -> None:
    """A cut image, a cut label, a label elsewhere, a file that is gone: each is a refusal that names the item."""
    write_case(tmp_path)
    assert _refusal(tmp_path, "gone").reason == "unreadable_file"
    whole = (tmp_path / "case-label.nii").read_bytes()
    (tmp_path / "case-label.nii").write_bytes(whole[:-10])
    assert _refusal(tmp_path).reason == "truncated_pixel_data"
    far = LPS.copy()
    far[:3, 3] = 500
    write_nifti(tmp_path / "case-label.nii", np.ones((16, 16, 3), dtype=np.uint8), far)
    assert _refusal(tmp_path).reason == "label_geometry_mismatch"
    (tmp_path / "case.nii").write_bytes((tmp_path / "case.nii").read_bytes()[:-10])
    assert _refusal(tmp_path).reason == "truncated_pixel_data"


def test_a_volume_that_would_grow_beyond_its_bound_is_refused(tmp_path: Path) -> None:
    """Many small slices are many large ones on the model grid."""
    write_case(tmp_path)
    wide = Recipe(preprocessing=PreprocessingConfig(image_size=64))
    outcome = prepare_item(item(tmp_path), wide, ReadingConfig(max_voxels=10_000), with_labels=True)
    assert isinstance(outcome, RefusedItem)
    assert outcome.reason == "too_large"
    assert outcome.detail == "12288 pixels on the model grid, allowed are 10000"


def _refusal(folder: Path, name: str = "case") -> RefusedItem:
    outcome = prepare_item(item(folder, name), RECIPE, READING, with_labels=True)
    assert isinstance(outcome, RefusedItem)
    assert outcome.name == name
    return outcome


def test_an_archives_items_follow_subjects(tmp_path: Path) -> None:
    """Series of a patient lie together under a pseudonym, whatever the files are called; what is refused is named."""
    write_series(tmp_path / "1", PatientID="B", SeriesInstanceUID=f"{SERIES_UID}.7")
    write_series(tmp_path / "2", PatientID="A", SeriesInstanceUID=f"{SERIES_UID}.8")
    write_series(tmp_path / "3", PatientID="B", SeriesInstanceUID=f"{SERIES_UID}.9")
    write_series(tmp_path / "4", PatientID=None, SeriesInstanceUID=f"{SERIES_UID}.10")
    write_series(tmp_path / "5", Modality="MR", SeriesInstanceUID=f"{SERIES_UID}.11")
    keyer = SubjectKeyer(b"a secret of some length")
    items, refused = archive_items(scan_archive(tmp_path, READING, keyer), {f"{SERIES_UID}.8": tmp_path / "x.nii"})
    assert sorted(item.subject for item in items) == [item.subject for item in items]
    by_name = {item.name.rpartition(".")[2]: item for item in items}
    assert by_name["7"].subject == by_name["9"].subject == keyer.key("B")
    assert by_name["7"].tokens == (f"subject:{keyer.key('B')}",)
    assert by_name["10"].subject.startswith("study-1.2.826")
    assert by_name["10"].tokens == ()
    assert (by_name["8"].label, by_name["7"].label) == (str(tmp_path / "x.nii"), "")
    assert [(item.name, item.reason) for item in refused] == [(f"{SERIES_UID}.11", "wrong_modality")]
    travelled = PreparationItem.from_json(by_name["7"].to_json())
    volume = prepared(travelled, RECIPE, with_labels=False)
    assert volume.slices.images.shape == (SHAPE[0], 16, 16)
    assert volume.tokens == (content_token(stored_values().astype(np.int16) - 1024), f"subject:{keyer.key('B')}")


@pytest.mark.parametrize(("text", "value"), [("2", 2), ("lungs", 2), ("tumour", 1)])
def test_an_organ_has_a_number_and_a_name(text: str, value: int) -> None:
    """Either is in dataset.json."""
    assert organ_value(text, {0: "background", 1: "tumour", 2: "lungs"}) == value


@pytest.mark.parametrize("text", ["3", "0", "background", "liver", "-1", "1.5", ""])
def test_an_organ_that_is_not_listed_is_an_error_that_lists_them(text: str) -> None:
    """Nobody trains an hour on labels that are all empty."""
    with pytest.raises(UsageError, match=r"1 \(tumour\), 2 \(lungs\)"):
        organ_value(text, {0: "background", 1: "tumour", 2: "lungs"})


def test_without_a_list_an_organ_is_a_number() -> None:
    """An archive's labels have no names."""
    assert organ_value("7", None) == 7
    for text in ("lungs", "0", "9" * 5000):
        with pytest.raises(UsageError, match="give a value"):
            organ_value(text, None)
