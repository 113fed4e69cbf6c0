"""Whole patients: reproducible, oriented, and with a label that is exactly the tumours."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import vaeseg.phantom.patient as patient_module
from vaeseg.config import PhantomConfig
from vaeseg.phantom.patient import PhantomPatient, generate_patient

SMALL = PhantomConfig(image_size=64, z_extent_mm=40.0, slice_spacing_mm=4.0)
WHOLE = PhantomConfig(image_size=64, slice_spacing_mm=6.0)


@cache
def whole_chest(index: int = 0) -> PhantomPatient:
    return generate_patient(5, index, WHOLE)


def test_same_arguments_give_the_same_patient_bit_for_bit() -> None:
    """A phantom is a function of seed, index and config."""
    one, two = generate_patient(3, 1, SMALL), generate_patient(3, 1, SMALL)
    assert np.array_equal(one.volume_hu, two.volume_hu)
    assert np.array_equal(one.label, two.label)
    assert np.array_equal(one.geometry.lps_from_kji, two.geometry.lps_from_kji)
    assert one.tumours == two.tumours


@pytest.mark.parametrize(("seed", "index"), [(4, 1), (3, 2)])
def test_another_seed_or_index_gives_another_patient(seed: int, index: int) -> None:
    """Neither argument is ignored."""
    one, other = generate_patient(3, 1, SMALL), generate_patient(seed, index, SMALL)
    assert one.tumours != other.tumours or one.geometry.spacing_mm != other.geometry.spacing_mm


def test_seed_of_the_config_plays_no_part() -> None:
    """The seed is the argument's."""
    other = PhantomConfig(image_size=64, z_extent_mm=40.0, slice_spacing_mm=4.0, seed=99, n_patients=7)
    assert np.array_equal(generate_patient(3, 1, SMALL).volume_hu, generate_patient(3, 1, other).volume_hu)


def test_slabs_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many planes are painted at once changes no voxel."""
    expected = generate_patient(3, 1, SMALL)
    monkeypatch.setattr(patient_module, "SLAB_PLANES", 3)
    assert np.array_equal(generate_patient(3, 1, SMALL).volume_hu, expected.volume_hu)


def test_image_size_changes_the_grid_and_not_the_patient() -> None:
    """Tumours keep kind, size, place and (within sampling) volume on a finer grid."""
    coarse = generate_patient(5, 2, SMALL)
    fine = generate_patient(5, 2, PhantomConfig(image_size=160, z_extent_mm=40.0, slice_spacing_mm=4.0))
    assert coarse.tumours
    for one, other in zip(coarse.tumours, fine.tumours, strict=True):
        assert (one.kind, one.diameter_mm, one.centre_lps_mm) == (other.kind, other.diameter_mm, other.centre_lps_mm)
        assert one.volume_ml == pytest.approx(other.volume_ml, rel=0.25)
    assert fine.geometry.spacing_mm[1] * 160 == pytest.approx(coarse.geometry.spacing_mm[1] * 64)


def test_shapes_and_types() -> None:
    """Volume, label and geometry agree; extent and spacing are those asked for."""
    made = generate_patient(3, 1, SMALL)
    assert made.volume_hu.dtype == np.int16
    assert made.label.dtype == np.bool_
    assert made.volume_hu.shape == made.label.shape == made.geometry.shape == (10, 64, 64)
    assert made.geometry.spacing_mm[0] == pytest.approx(4.0)
    assert 300 <= made.geometry.spacing_mm[1] * 64 <= 450


def test_tissues_have_their_hounsfield_units() -> None:
    """Air outside, much lung, much soft tissue, some bone, all within 12 bits."""
    volume = whole_chest().volume_hu
    assert volume.min() >= -1024
    assert volume.max() <= 3071
    assert np.median(volume[:, :3, :3]) == pytest.approx(-1000, abs=25)
    lung = (volume > -920) & (volume < -700)
    assert 0.05 < lung.mean() < 0.35
    assert 0.15 < ((volume > -20) & (volume < 120)).mean() < 0.6
    assert 0.001 < (volume > 300).mean() < 0.05


def test_axes_are_those_of_dicom() -> None:
    """k grows to the head, j to the back, i to the patient's left."""
    made = whole_chest()
    n_slices = len(made.volume_hu)
    lungs = (made.volume_hu > -920) & (made.volume_hu < -650)
    bones = made.volume_hu[:, :, 26:38] > 350
    assert bones[:, 32:].sum() > 2 * bones[:, :32].sum(), "the spine lies at the back"
    base, middle = lungs[: n_slices // 8], lungs[n_slices // 2 :][: n_slices // 8]
    assert base.sum() < 0.6 * middle.sum(), "liver and spleen fill the lowest slices"
    shoulders = made.volume_hu[-n_slices // 8 :] > -300
    assert shoulders[:, :, [2, 61]].sum() > 0, "shoulders fill the highest"
    heart = lungs[int(0.30 * n_slices) : int(0.40 * n_slices)]
    assert heart[:, :30, 32:].sum() < heart[:, :30, :32].sum(), "the heart lies in front and to the left"
    direction = made.geometry.lps_from_kji[:3, :3]
    assert (np.diag(np.fliplr(direction)) > 0).all()
    assert np.count_nonzero(direction) == 3


def test_solid_tumours_stand_out_and_ground_glass_less_so() -> None:
    """Inside the label, tissue has the kind's density."""
    seen = set()
    for index in range(10):
        made = generate_patient(11, index, PhantomConfig(image_size=128, z_extent_mm=30.0, slice_spacing_mm=3.0))
        if len(made.tumours) != 1 or made.label.sum() < 70:  # on few voxels all is border
            continue
        kind = made.tumours[0].kind
        mean = float(np.median(made.volume_hu[made.label]))
        seen.add(kind == "ground_glass")
        assert (-700 < mean < -250) if kind == "ground_glass" else (-80 < mean < 120), kind
    assert False in seen


def test_truth_counts_the_voxels_of_the_label() -> None:
    """Volume in the truth is voxel count times voxel volume, and sums to the label."""
    made = whole_chest(2)
    assert made.tumours
    assert sum(tumour.n_voxels for tumour in made.tumours) == made.label.sum()
    for tumour in made.tumours:
        assert tumour.volume_ml == pytest.approx(tumour.n_voxels * made.geometry.voxel_volume_mm3 / 1000)


def test_no_tumours_on_request() -> None:
    """Both ways to ask for none leave the label empty."""
    free = PhantomConfig(image_size=32, z_extent_mm=12.0, slice_spacing_mm=4.0, tumour_free_share=1.0)
    none = PhantomConfig(image_size=32, z_extent_mm=12.0, slice_spacing_mm=4.0, max_tumours=0)
    for config in (free, none):
        made = generate_patient(1, 0, config)
        assert not made.label.any()
        assert made.tumours == ()


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_patients": 0},
        {"seed": -1},
        {"image_size": 8},
        {"z_extent_mm": -5.0},
        {"slice_spacing_mm": 0.0},
        {"tumour_free_share": 1.5},
        {"max_tumours": 5},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    """A config that cannot be meant is a ValueError when it is made."""
    with pytest.raises(ValueError, match=r"phantom|tumour"):
        PhantomConfig(**wrong)  # type: ignore[arg-type]


def test_lungs_too_narrow_for_deep_vessels_still_get_some() -> None:
    """This patient's left lung is nowhere as deep as vessel tips want to lie: the first version looked for ever."""
    patient = generate_patient(1001, 33, PhantomConfig(image_size=32, z_extent_mm=12.0, slice_spacing_mm=3.0))
    assert patient.volume_hu.shape[0] == 4
