"""Evaluation on a prepared data set: parts of its splits, at its own resolution, and never prepared otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataset_factories import volume, write_data_set
from evaluation_factories import PREPROCESSING, BrightIsTumour, tiny_model

from vaeseg.config import PreprocessingConfig
from vaeseg.errors import UsageError
from vaeseg.evaluation.cases import Case
from vaeseg.inference import evaluation
from vaeseg.inference.case_pictures import picture_cases
from vaeseg.inference.evaluation import EvaluatedModel, evaluate, load_model, result_json
from vaeseg.inference.evaluation_sources import DataSource, Subject, check_preprocessing
from vaeseg.io.dataset import DataSet, open_data_set
from vaeseg.io.slices import PreparedVolume, SliceSet

NAMES = [f"s{n}" for n in range(10)]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EvaluatedModel:
    monkeypatch.setattr(evaluation, "Predictor", BrightIsTumour)
    return load_model(tiny_model(tmp_path))


def data_set(root: Path, bits: int = 8, with_labels: bool = True) -> DataSet:
    """Ten subjects of three slices with noise; slice k has a label of k pixels."""
    volumes = [volume(name, bits=bits, with_labels=with_labels, size=64) for name in NAMES]
    write_data_set(root, volumes, bits=bits, with_labels=with_labels, preprocessing=PREPROCESSING)
    return open_data_set(str(root))


def subjects_of(source: DataSource) -> list[Subject]:
    return list(source.subjects(PREPROCESSING))


@pytest.mark.parametrize("bits", [8, 16])
def test_figures_are_those_of_the_stored_pixels(model: EvaluatedModel, tmp_path: Path, bits: int) -> None:
    """The mask is what is bright in the stored intensity; volumes are unknown, since the pixels' size is."""
    data = data_set(tmp_path / "data", bits)
    found = result_json(evaluate(model, DataSource(data, "all")), seed=0)
    slices = data.read()
    masks = slices.images >= np.iinfo(slices.images.dtype).max * 1000 / 1400
    labels = slices.labels(np.arange(30))
    both, either = (masks & labels).sum(axis=(1, 2)), (masks | labels).sum(axis=(1, 2))
    assert (found["n_subjects"], found["n_slices"], found["n_label_slices"]) == (10, 30, 20)
    assert found["iou_label"] == pytest.approx((both / either)[labels.any(axis=(1, 2))].mean())
    assert found["iou_pooled"] == pytest.approx(both.sum() / either.sum())
    assert (found["volume_error_ml_median"], found["confidence"]["volume_error_ml_median"]) == (None, None)


@pytest.mark.parametrize("part", ["train", "dev", "test"])
def test_a_part_has_the_subjects_of_the_split(tmp_path: Path, part: str) -> None:
    """The test part by default; eight, one and one of ten."""
    data = data_set(tmp_path)
    expected = getattr(data.splits["subject"][0], part)
    source = DataSource(data, part)  # type: ignore[arg-type]
    assert len(source) == len(subjects_of(source)) == {"train": 8, "dev": 1, "test": 1}[part]
    assert [subject.name for subject in subjects_of(source)] == list(
        dict.fromkeys(data.index.subjects[n] for n in data.index.subject_of_slice[expected])
    )
    assert [s.tokens for s in subjects_of(source)] == [(f"token-{s.name}",) for s in subjects_of(source)]
    assert subjects_of(DataSource(data))[0].name == subjects_of(DataSource(data, "test"))[0].name


def test_a_split_by_slice_cuts_subjects(tmp_path: Path) -> None:
    """Of each subject the slices in the part, with their own numbers; all parts together are everything."""
    data = data_set(tmp_path)
    places: list[tuple[str, int]] = []
    for part in ("train", "dev", "test"):
        for subject in subjects_of(DataSource(data, part, "slice")):  # type: ignore[arg-type]
            assert len(subject.label) == len(subject.places)
            # slice k of a subject has k labelled pixels
            np.testing.assert_array_equal(subject.label.sum(axis=(1, 2)), subject.places.slice_index)
            places += [(subject.name, int(k)) for k in subject.places.slice_index]
    assert sorted(places) == [(name, k) for name in NAMES for k in range(3)]


def test_volumes_of_a_subject_are_apart(model: EvaluatedModel, tmp_path: Path) -> None:
    """A nodule at one place in two series is two lesions of 48 voxels, found where it is predicted."""
    first, second = nodule("one", is_bright=True), nodule("two", is_bright=False)
    write_data_set(tmp_path / "data", [first, second], preprocessing=PREPROCESSING)
    table = evaluate(model, DataSource(open_data_set(str(tmp_path / "data")), "all")).table
    (subject,) = table.subjects
    assert [(lesion.n_voxels, lesion.found) for lesion in subject.lesions] == [(48, True), (48, False)]
    assert table.places.series == ("one",) * 3 + ("two",) * 3
    assert table.places.slice_index.tolist() == [0, 1, 2, 0, 1, 2]


def nodule(series: str, is_bright: bool) -> PreparedVolume:
    """Three slices with a label of 4 x 4 pixels each."""
    labels = np.zeros((3, 64, 64), dtype=bool)
    labels[:, 30:34, 30:34] = True
    slices = SliceSet(
        images=np.where(labels & is_bright, 255, 0).astype(np.uint8), packed_labels=np.packbits(labels, -1)
    )
    return PreparedVolume(subject="s", series=series, tokens=(), slices=slices, spacing_mm=(1.0, 1.0, 1.0))


def test_pictures_are_of_the_stored_pixels(model: EvaluatedModel, tmp_path: Path) -> None:
    """Intensity is shown as it is."""
    data = data_set(tmp_path / "data")
    source = DataSource(data, "all")
    table = evaluate(model, source).table
    (picture,) = picture_cases(model, source, table, [Case(kind="best", row=4)])
    assert (picture.subject, picture.slice_index) == ("s1", 1)
    np.testing.assert_allclose(picture.image, data.read(np.array([4])).images[0] / 255, atol=1e-6)


def test_what_a_data_set_cannot_give_is_said(tmp_path: Path) -> None:
    """No labels, no such fold."""
    with pytest.raises(UsageError, match="no labels"):
        DataSource(data_set(tmp_path / "bare", with_labels=False))
    with pytest.raises(UsageError, match="1 splits by subject, so none of number 3"):
        DataSource(data_set(tmp_path / "data"), fold=3)


def test_data_prepared_otherwise_are_refused(model: EvaluatedModel, tmp_path: Path) -> None:
    """Another size or another window, naming both; the threshold does not matter."""
    write_data_set(tmp_path / "small", [volume(name) for name in NAMES])
    with pytest.raises(UsageError, match=r"10 x 10 pixels, window:-1000:400, .*64 x 64 pixels, window"):
        evaluate(model, DataSource(open_data_set(str(tmp_path / "small")), "all"))
    check_preprocessing(PREPROCESSING, PreprocessingConfig(image_size=64, threshold=0.3))
    for other in (
        PreprocessingConfig(image_size=64, intensity="minmax"),
        PreprocessingConfig(image_size=64, window_low_hu=0.0, window_high_hu=255.0),
    ):
        with pytest.raises(UsageError, match="prepare the data"):
            check_preprocessing(other, PREPROCESSING)


def test_the_window_of_minmax_does_not_matter() -> None:
    """It is used by `window` only."""
    one = PreprocessingConfig(intensity="minmax")
    check_preprocessing(one, PreprocessingConfig(intensity="minmax", window_high_hu=255.0))
