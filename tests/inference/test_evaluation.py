"""From files to figures: every number counted by hand, whatever the file's grid."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from evaluation_factories import AXIAL, PREPROCESSING, BrightIsTumour, box, list_subjects, tiny_model, write_subject
from random_model import write_overflowing_model

from vaeseg.config import PreprocessingConfig
from vaeseg.errors import CheckpointError, UsageError
from vaeseg.inference import evaluation
from vaeseg.inference.evaluation import evaluate, load_model, remarks, result_json
from vaeseg.inference.evaluation_sources import MsdSource, Refused, Subject
from vaeseg.models.provenance import UNKNOWN_TOKEN


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "Predictor", BrightIsTumour)


def evaluated(model: Path, root: Path, **options: Any) -> dict[str, Any]:
    return result_json(evaluate(load_model(model), MsdSource(root, **options)), seed=0)


LABEL = box(slice(0, 2), slice(0, 10), slice(0, 12))
PREDICTED = box(slice(1, 3), slice(0, 10), slice(6, 18))
"""Slices 0: missed. 1: half of 120 pixels found, as many beside. 2: invented. 3: nothing."""


@pytest.mark.usefixtures("fake")
def test_figures_of_one_volume_by_hand(model: Path, tmp_path: Path) -> None:
    """IoU 0, 1/3, 0 and undefined; volumes are equal; the lesion is touched."""
    write_subject(tmp_path, "a", LABEL, PREDICTED)
    found = evaluated(model, list_subjects(tmp_path, "a"))
    expected = {
        "model": "m",
        "n_subjects": 1,
        "n_slices": 4,
        "n_label_slices": 2,
        "iou_label": 1 / 6,
        "iou_label_or_prediction": 1 / 9,
        "iou_label_median": 1 / 6,
        "iou_pooled": 60 / 420,
        "dice_label": 1 / 4,
        "iou_subject": 1 / 9,
        "iou_label_large": 1 / 6,
        "volume_error_ml_median": 0.0,
        "sensitivity": 1.0,
        "false_positive_slices_share": 1 / 2,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["confidence"] == dict.fromkeys(found["confidence"])
    assert (found["overlap_subjects"], found["refused"], found["threshold"]) == (None, [], 0.5)


@pytest.mark.usefixtures("fake")
def test_labels_on_another_grid_are_named(model: Path, tmp_path: Path) -> None:
    """One that ends after the first slice, so that there is no label in the others, and one with its axes swapped."""
    for name, moved in (("a", 0), ("short", 1), ("swapped", 2)):
        write_subject(tmp_path, name, LABEL, np.roll(PREDICTED, moved, axis=2))
    for name, change in (("short", lambda image: image.slicer[..., :1]), ("swapped", swapped)):
        path = tmp_path / f"labelsTr/{name}.nii.gz"
        nibabel.save(change(nibabel.load(path)), path.with_name("new.nii.gz"))
        path.with_name("new.nii.gz").replace(path)
    found = evaluated(model, list_subjects(tmp_path, "a", "short", "swapped"))
    assert (found["n_subjects"], found["n_label_slices"], found["duplicate_subjects"]) == (3, 5, 0)
    assert found["warnings"] == {"label_covers_part": ["short"], "label_resampled": ["short", "swapped"]}
    unknown, covers, resampled = remarks(found)
    assert unknown.endswith("is unknown: it does not record all whom it has seen")
    assert covers.startswith("label_covers_part: the label does not reach everywhere in its image")
    assert covers.endswith("1 (short)")
    assert resampled.endswith("2 (short, swapped)")


def swapped(image: nibabel.Nifti1Image) -> nibabel.Nifti1Image:
    return image.as_reoriented(nibabel.orientations.axcodes2ornt(("S", "L", "P")))


@pytest.mark.usefixtures("fake")
def test_a_subject_under_two_names_is_counted_as_a_copy(model: Path, tmp_path: Path) -> None:
    """Stored the other way round too: it is the same voxels that make intervals too narrow."""
    for name in ("a", "b"):
        write_subject(tmp_path, name, LABEL, PREDICTED)
    path = tmp_path / "imagesTr/b.nii.gz"
    nibabel.save(swapped(nibabel.load(path)), tmp_path / "b.nii.gz")
    (tmp_path / "b.nii.gz").replace(path)
    found = evaluated(model, list_subjects(tmp_path, "a", "b"))
    assert found["duplicate_subjects"] == 1
    assert any(remark.startswith("1 of the 2 subjects are copies") for remark in remarks(found))


def orientations() -> Iterator[Any]:
    """Affines with which an axial stack may be stored: axes mirrored and swapped."""
    signs = [(-1, -1, 1), (1, 1, 1), (-1, 1, -1), (1, -1, -1)]
    for axes in [(0, 1, 2), (1, 0, 2), (2, 0, 1), (2, 1, 0)]:
        for sign in signs:
            yield pytest.param(axes, sign, id=f"axes{axes}signs{sign}")


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(("axes", "sign"), list(orientations()))
def test_figures_do_not_depend_on_how_the_file_is_stored(
    model: Path, tmp_path: Path, axes: tuple[int, int, int], sign: tuple[int, int, int]
) -> None:
    """World axis w is stored along file axis axes[w], in the direction sign[w]; slices stay axial."""
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for world, (axis, direction) in enumerate(zip(axes, sign, strict=True)):
        affine[world, axis] = direction * (1.0, 1.0, 3.0)[world]
    # (K, J, I) holds world z, y, x; the file's (I, J, K) transposed holds axes 2, 1, 0
    order = [2 - axes.index(axis) for axis in (2, 1, 0)]
    write_subject(tmp_path, "a", LABEL.transpose(order), PREDICTED.transpose(order), affine)
    found = evaluated(model, list_subjects(tmp_path, "a"))
    assert found["n_slices"] == 4
    assert found["iou_label"] == pytest.approx(1 / 6)
    assert found["iou_pooled"] == pytest.approx(60 / 420)


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("label_dtype", [np.int16, np.float32, np.uint16, np.float64])
@pytest.mark.parametrize("image_dtype", [np.int16, np.int32, np.float32])
def test_any_integer_or_float_type_will_do(model: Path, tmp_path: Path, image_dtype: type, label_dtype: type) -> None:
    """The figures are those of the values."""
    write_subject(tmp_path, "a", LABEL, PREDICTED, image_dtype=image_dtype, label_dtype=label_dtype)
    assert evaluated(model, list_subjects(tmp_path, "a"))["iou_label"] == pytest.approx(1 / 6)


@pytest.mark.usefixtures("fake")
def test_comparison_is_at_the_native_resolution(model: Path, tmp_path: Path) -> None:
    """128 x 128 pixels of 0.5 mm through a grid of 64: a label of odd width is met to the nearest model pixel."""
    shape = (1, 128, 128)
    label = box(slice(0, 1), slice(20, 40), slice(20, 41), shape=shape)
    predicted = box(slice(0, 1), slice(20, 40), slice(20, 40), shape=shape)
    write_subject(tmp_path, "a", label, predicted, np.diag([-0.5, -0.5, 2.0, 1.0]))
    found = evaluated(model, list_subjects(tmp_path, "a"))
    assert found["iou_label"] == pytest.approx(400 / 420)
    assert found["volume_error_ml_median"] == pytest.approx(20 * 0.5 * 0.5 * 2 / 1000)


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("shape", "covered"),
    [((3, 96, 96), 3 * 64 * 64), ((2, 40, 64), 2 * 40 * 64), ((2, 64, 30), 2 * 64 * 30), ((1, 10, 200), 4 * 64)],
)
def test_slices_of_any_size_are_evaluated(
    model: Path, tmp_path: Path, shape: tuple[int, int, int], covered: int
) -> None:
    """Crops and slices that are not square; the padding of the model grid is in no figure, calibration included."""
    label = box(slice(0, 1), slice(2, 8), slice(4, 10), shape=shape)
    write_subject(tmp_path, "a", label, label, np.diag([-1.0, -1.0, 1.0, 1.0]))
    done = evaluate(load_model(model), MsdSource(list_subjects(tmp_path, "a")))
    found = result_json(done, seed=0)
    assert found["n_slices"] == shape[0]
    assert found["iou_label"] > 0.4
    assert done.calibration.n_pixels.sum() == covered
    if max(shape) == 64:
        assert done.calibration.n_tumour.sum() == done.calibration.n_tumour[18:].sum() == 36


@pytest.mark.usefixtures("fake")
def test_one_organ_s_label_is_chosen_by_its_value(model: Path, tmp_path: Path) -> None:
    """Value 1 is the whole box, 2 lies within: the prediction of the latter is exact."""
    label = LABEL.astype(np.uint8)
    organ = box(slice(0, 1), slice(2, 5), slice(2, 5))
    label[organ] = 2
    write_subject(tmp_path, "a", label, organ)
    root = list_subjects(tmp_path, "a")
    chosen, both = evaluated(model, root, organ=2), evaluated(model, root)
    assert (chosen["iou_label"], chosen["warnings"]) == (1.0, {})
    assert both["warnings"] == {"several_label_values": ["a"]}
    assert both["iou_pooled"] == pytest.approx(9 / 240)
    assert evaluated(model, root, organ=7)["n_label_slices"] == 0


@pytest.mark.usefixtures("fake")
def test_eight_bit_images_are_what_they_are(model: Path, tmp_path: Path) -> None:
    """Values 0 to 255 are not HU, and nothing takes them for it: the window is the checkpoint's."""
    write_subject(tmp_path, "a", LABEL, PREDICTED, image_dtype=np.uint8)
    (subject,) = MsdSource(list_subjects(tmp_path, "a")).subjects(PREPROCESSING)
    assert isinstance(subject, Subject)
    assert set(np.unique(subject.model_slices)) == {10, 200}


@pytest.mark.usefixtures("fake")
def test_items_that_cannot_be_evaluated_are_counted(model: Path, tmp_path: Path) -> None:
    """Cut short, label missing, no label named, label elsewhere, label of NaN: the others are evaluated."""
    for name in ("good", "cut", "lost", "apart", "nan"):
        write_subject(tmp_path, name, LABEL, PREDICTED)
    cut = tmp_path / "imagesTr/cut.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-20])
    (tmp_path / "labelsTr/lost.nii.gz").unlink()
    away = AXIAL.copy()
    away[:3, 3] = 5000
    write_subject(tmp_path / "away", "apart", LABEL, PREDICTED, away)
    (tmp_path / "away/labelsTr/apart.nii.gz").replace(tmp_path / "labelsTr/apart.nii.gz")
    nan = np.where(LABEL, math.nan, 0)
    write_subject(tmp_path, "nan", nan, PREDICTED, label_dtype=np.float32)
    write_subject(tmp_path, "bare", LABEL, PREDICTED)
    root = list_subjects(tmp_path, "cut", "good", "lost", "apart", "nan", without_label=("bare",))
    seen: list[int] = []
    done = evaluate(load_model(model), MsdSource(root), on_subject=seen.append)
    assert {item.name: item.reason for item in done.refused} == {
        "cut": "damaged_file",
        "lost": "unreadable_file",
        "apart": "label_geometry_mismatch",
        "nan": "non_finite_voxels",
        "bare": "no_label",
    }
    assert {item.name for item in done.refused if item.detail.startswith("label: ")} == {"lost", "nan"}
    assert [subject.name for subject in done.table.subjects] == ["good"]
    assert sorted(seen) == [0, 0, 0, 0, 0, 4]
    assert result_json(done, seed=0)["iou_label"] == pytest.approx(1 / 6)


@pytest.mark.usefixtures("fake")
def test_nothing_to_evaluate_is_null_and_no_crash(model: Path, tmp_path: Path) -> None:
    """One volume, and that without a label."""
    write_subject(tmp_path, "a", LABEL, PREDICTED)
    found = evaluated(model, list_subjects(tmp_path, without_label=("a",)))
    assert (found["n_subjects"], found["n_slices"], found["iou_label"]) == (0, 0, None)


class Known:
    """Subjects that are recognised by their names."""

    location = "known"

    def __init__(self, subjects: list[Subject]) -> None:
        self._subjects = subjects

    def __len__(self) -> int:
        return len(self._subjects)

    def subjects(self, preprocessing: PreprocessingConfig) -> Iterator[Subject | Refused]:
        yield from self._subjects

    def subject(self, name: str, preprocessing: PreprocessingConfig) -> Subject:
        raise NotImplementedError


@pytest.fixture
def three(tmp_path: Path) -> Known:
    for name in "abc":
        write_subject(tmp_path, name, LABEL, PREDICTED)
    found = [s for s in MsdSource(list_subjects(tmp_path, *"abc")).subjects(PREPROCESSING) if isinstance(s, Subject)]
    return Known([replace(subject, tokens=(f"token-{subject.name}",)) for subject in found])


@pytest.mark.usefixtures("fake")
def test_subjects_that_the_model_has_seen_are_refused(
    model: Path, three: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of three were trained on: refused with both numbers; evaluated and counted where that is allowed."""
    monkeypatch.setattr(evaluation, "seen_tokens", lambda _: frozenset({"token-b", "token-c", "token-x"}))
    with pytest.raises(UsageError, match=r"trained on 2 of these 3 subjects.*--allow-overlap"):
        evaluate(load_model(model), three)
    allowed = evaluate(load_model(model), three, allow_overlap=True)
    assert (allowed.overlap_subjects, len(allowed.table.subjects)) == (2, 3)


@pytest.mark.usefixtures("fake")
def test_a_volume_is_recognised_under_another_name(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that was renamed, stored as float and mirrored is the volume that was trained on."""
    write_subject(tmp_path / "one", "a", LABEL, PREDICTED)
    (first,) = MsdSource(list_subjects(tmp_path / "one", "a")).subjects(PREPROCESSING)
    assert isinstance(first, Subject)
    monkeypatch.setattr(evaluation, "seen_tokens", lambda _: frozenset(first.tokens))
    mirrored = np.diag([1.0, -1.0, 3.0, 1.0])
    write_subject(tmp_path / "two", "b", LABEL[..., ::-1], PREDICTED[..., ::-1], mirrored, image_dtype=np.float32)
    with pytest.raises(UsageError, match="trained on 1 of these 1 subjects"):
        evaluate(load_model(model), MsdSource(list_subjects(tmp_path / "two", "b")))


@pytest.mark.usefixtures("fake")
def test_nothing_is_segmented_once_a_subject_was_seen(
    model: Path, three: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is no by then; only the number of seen subjects is still to be found."""
    segmented: list[str] = []
    monkeypatch.setattr(evaluation, "seen_tokens", lambda _: frozenset({"token-b", "token-c"}))
    monkeypatch.setattr(evaluation, "_measure", lambda subject, *_: segmented.append(subject.name))
    with pytest.raises(UsageError, match="trained on 2 of these 3"):
        evaluate(load_model(model), three)
    assert segmented == ["a"]


@pytest.mark.usefixtures("fake")
def test_unseen_subjects_are_evaluated(model: Path, three: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in common is a result of 0; a model that does not say whom it has seen, of None."""
    assert evaluate(load_model(model), three).overlap_subjects is None
    monkeypatch.setattr(evaluation, "seen_tokens", lambda _: frozenset({"token-x"}))
    assert evaluate(load_model(model), three).overlap_subjects == 0


@pytest.mark.usefixtures("fake")
def test_a_model_that_knows_a_part_of_whom_it_saw(model: Path, three: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those it knows are refused; nothing in common with them proves nothing."""
    monkeypatch.setattr(evaluation, "seen_tokens", lambda _: frozenset({"token-x", UNKNOWN_TOKEN}))
    assert evaluate(load_model(model), three).overlap_subjects is None
    monkeypatch.setattr(evaluation, "seen_tokens", lambda _: frozenset({"token-b", UNKNOWN_TOKEN}))
    with pytest.raises(UsageError, match="trained on 1 of these 3 subjects"):
        evaluate(load_model(model), three)
    assert evaluate(load_model(model), three, allow_overlap=True).overlap_subjects == 1


def test_a_model_whose_values_are_not_finite_has_no_figures(tmp_path: Path) -> None:
    """It ends with a sentence that names the first subject; weights that are finite can overflow."""
    write_subject(tmp_path, "a", LABEL, PREDICTED)
    source = MsdSource(list_subjects(tmp_path, "a"))
    with pytest.raises(CheckpointError, match=r"cannot be evaluated: of a, the model's values .* are not finite"):
        evaluate(load_model(write_overflowing_model(tmp_path / "m.safetensors")), source)
