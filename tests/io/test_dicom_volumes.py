"""From instances to one volume: order, spacing and place come from positions, or there is a named refusal."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from factories import (
    AXIAL,
    ORIGIN_LPS,
    SERIES_UID,
    SHAPE,
    SPACING_MM,
    STUDY_UID,
    axial_affine_ras,
    ct_slice,
    save,
    stored_values,
    write_series,
)
from reading import assert_volume, judge, read_one, reasons

from vaeseg.config import ReadingConfig
from vaeseg.geometry.affine import ras_from_ijk

Position = Callable[[int], list[float]]


def at(position: Position, n_slices: int = SHAPE[0]) -> dict[int, dict[str, Any]]:
    return {k: {"ImagePositionPatient": position(k)} for k in range(n_slices)}


def along_z(z: list[float]) -> dict[int, dict[str, Any]]:
    return at(lambda k: [*ORIGIN_LPS[:2], z[k]], len(z))


def test_an_upright_series_voxel_for_voxel(tmp_path: Path) -> None:
    """Values, affine, spacing and type of the plainest series; no warnings."""
    series = write_series(tmp_path)
    volume = read_one(tmp_path)
    assert_volume(volume, series.hu, axial_affine_ras())
    assert volume.volume_hu.dtype == np.int16
    assert volume.geometry.spacing_mm == pytest.approx(SPACING_MM)
    assert volume.warnings == ()


def test_names_and_instance_numbers_mean_nothing(tmp_path: Path) -> None:
    """Shuffled file names, InstanceNumber and SliceLocation leave the order to the positions."""
    shuffled = {k: {"InstanceNumber": 7 - k, "SliceLocation": float((k * 5) % 6)} for k in range(6)}
    series = write_series(tmp_path, per_slice=shuffled, names=[f"IM{(k * 7) % 6}" for k in range(6)])
    assert_volume(read_one(tmp_path), series.hu, axial_affine_ras())


def test_descending_positions(tmp_path: Path) -> None:
    """Slices written head first are turned round, so that the affine is right-handed in LPS."""
    series = write_series(tmp_path, per_slice=along_z([100 + 2.5 * (5 - k) for k in range(6)]))
    assert_volume(read_one(tmp_path), series.hu[::-1], axial_affine_ras())


@pytest.mark.parametrize("orientation", [(-1, 0, 0, 0, 1, 0), (1, 0, 0, 0, -1, 0), (-1, 0, 0, 0, -1, 0)])
def test_mirrored_and_prone_slices_keep_their_place(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    """Each voxel's RAS position is what the header of its own slice says."""
    write_series(tmp_path, ImageOrientationPatient=list(orientation))
    assert_places_by_header(tmp_path, orientation)


@pytest.mark.parametrize(
    "orientation",
    [
        (0, 1, 0, 0, 0, -1),  # sagittal
        (1, 0, 0, 0, 0, -1),  # coronal
        (0.8, 0.6, 0, 0, 0, -1),  # turned about z
        (0.96, 0.28, 0, -0.168, 0.576, 0.8),  # doubly oblique
    ],
)
def test_stacks_that_are_not_axial(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    """Sagittal, coronal and oblique stacks are ordered along their own normal."""
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    step = 2.5 * np.cross(row, column)
    positions = at(lambda k: [round(float(value), 6) for value in ORIGIN_LPS + k * step])
    write_series(tmp_path, per_slice=positions, ImageOrientationPatient=list(orientation))
    assert_places_by_header(tmp_path, orientation)
    assert read_one(tmp_path).geometry.spacing_mm == pytest.approx(SPACING_MM, abs=1e-5)
    assert read_one(tmp_path).warnings == ()


def assert_places_by_header(directory: Path, orientation: tuple[float, ...]) -> None:
    """Stored values name slice, row and column, so each voxel can be sent to its place by PS3.3 C.7.6.2.1.1."""
    volume = read_one(directory)
    affine = ras_from_ijk(volume.geometry)
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    normal = np.cross(row, column)
    is_axial = abs(normal[2]) > 0.99
    for kji in [(0, 0, 0), (5, 0, 0), (2, 11, 0), (3, 0, 15), (4, 7, 9)]:
        stored = int(volume.volume_hu[kji]) + 1024
        k, j, i = stored // 256, stored % 256 // 16, stored % 16
        step = np.array([0, 0, 2.5]) if is_axial else 2.5 * normal
        lps = ORIGIN_LPS + k * step + j * SPACING_MM[1] * column + i * SPACING_MM[2] * row
        ras = affine @ [kji[2], kji[1], kji[0], 1]
        np.testing.assert_allclose(ras[:3], lps * [-1, -1, 1], atol=1e-4)


def test_gantry_tilt_keeps_the_shear(tmp_path: Path) -> None:
    """The step is not along the normal: affine and determinant keep it, and a warning says so."""
    tilted = at(lambda k: [ORIGIN_LPS[0], ORIGIN_LPS[1] + 0.9 * k, ORIGIN_LPS[2] + 2.5 * k])
    series = write_series(tmp_path, per_slice=tilted)
    volume = read_one(tmp_path)
    expected = axial_affine_ras()
    expected[1, 2] = -0.9
    assert_volume(volume, series.hu, expected)
    assert volume.geometry.voxel_volume_mm3 == pytest.approx(2.5 * 0.75 * 0.5)
    assert "gantry_tilt" in volume.warnings


def test_tilt_that_only_the_header_tells_is_a_warning(tmp_path: Path) -> None:
    """GantryDetectorTilt with upright positions: geometry is taken, and the doubt is passed on."""
    write_series(tmp_path, GantryDetectorTilt="12.5")
    assert read_one(tmp_path).warnings == ("gantry_tilt",)


@pytest.mark.parametrize(
    ("z", "reason"),
    [
        ([0, 2.5, 7.5, 10, 12.5, 15], "missing_slices"),
        ([0, 2.5, 5, 7.5, 10.4, 12.9], "non_uniform_spacing"),
        ([0, 1, 2, 3, 8, 13, 18], "non_uniform_spacing"),
        ([0, 2.5, 5, 5, 7.5, 10], "duplicate_positions"),
    ],
)
def test_irregular_positions_are_refused(tmp_path: Path, z: list[float], reason: str) -> None:
    """All files of the series are counted under the one reason."""
    write_series(tmp_path, stored_values((len(z), 12, 16)), per_slice=along_z(z))
    assert reasons(tmp_path) == {reason: len(z)}


def test_position_jitter_of_real_scanners_is_accepted(tmp_path: Path) -> None:
    """A few micrometres, and lateral jitter below a tenth of a millimetre."""
    jitter = [0, 0.004, -0.006, 0.003, -0.002, 0]
    moved = at(lambda k: [ORIGIN_LPS[0] + 5 * jitter[k], ORIGIN_LPS[1], ORIGIN_LPS[2] + 2.5 * k + jitter[k]])
    series = write_series(tmp_path, per_slice=moved)
    volume = read_one(tmp_path)
    np.testing.assert_array_equal(volume.volume_hu, series.hu)
    np.testing.assert_allclose(ras_from_ijk(volume.geometry), axial_affine_ras(), atol=1e-9)


def test_two_slices_are_a_volume_and_one_is_not(tmp_path: Path) -> None:
    """Two positions have a distance; one has none, whatever SliceThickness says."""
    two = write_series(tmp_path / "two", stored_values((2, 12, 16)))
    assert_volume(read_one(tmp_path / "two"), two.hu, axial_affine_ras())
    write_series(tmp_path / "one", stored_values((1, 12, 16)))
    assert reasons(tmp_path / "one") == {"single_slice": 1}


def test_copies_of_the_same_file_count_once(tmp_path: Path) -> None:
    """Byte-identical copies are refused as such, and the volume is whole and not warned about."""
    series = write_series(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert_volume(read_one(tmp_path), series.hu, axial_affine_ras())
    assert reasons(tmp_path) == {"readable": 6, "duplicate_instance": 6}
    assert read_one(tmp_path).warnings == ()


def test_the_same_position_under_another_uid_is_refused(tmp_path: Path) -> None:
    """Which of two slices is meant cannot be known."""
    write_series(tmp_path / "a")
    write_series(tmp_path / "b", per_slice={k: {"SOPInstanceUID": f"1.2.3.{k}"} for k in range(6)})
    assert reasons(tmp_path) == {"duplicate_positions": 12}


def test_the_same_uid_with_other_content_is_refused(tmp_path: Path) -> None:
    """A resent instance that differs is no copy."""
    write_series(tmp_path / "a")
    write_series(tmp_path / "b", RescaleIntercept="-1000")
    assert reasons(tmp_path) == {"duplicate_positions": 12}


def test_positions_that_repeat_are_split_by_acquisition(tmp_path: Path) -> None:
    """Two phases under one series UID become two volumes with keys of their own."""
    first = write_series(tmp_path / "a")
    again = {k: {"SOPInstanceUID": f"1.2.3.{k}", "AcquisitionNumber": 2} for k in range(6)}
    second = write_series(tmp_path / "b", first.stored + 1, per_slice=again)
    one, two = judge(tmp_path)
    assert (one.verdict.series_key, two.verdict.series_key) == (SERIES_UID, f"{SERIES_UID}-2")
    assert one.volume is not None
    assert two.volume is not None
    assert_volume(one.volume, first.hu, axial_affine_ras())
    assert_volume(two.volume, second.hu, axial_affine_ras())
    assert one.warnings == {"split_by_acquisition"}


@pytest.mark.parametrize(
    ("image_type", "warned"),
    [
        (["DERIVED", "SECONDARY", "AXIAL", "MIP"], True),
        (["DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 MIP"], True),
        (["DERIVED", "PRIMARY", "PROJECTION IMAGE", "MIN_IP"], True),
        (["DERIVED", "SECONDARY", "MPR"], False),
        (["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"], False),
        (["DERIVED", "SECONDARY", "AXIAL", "MIPS"], False),
    ],
)
def test_projections_are_warned_of(tmp_path: Path, image_type: list[str], warned: bool) -> None:
    """Read they are all the same; what is done with them is decided elsewhere."""
    write_series(tmp_path, ImageType=image_type)
    (judged,) = judge(tmp_path)
    assert ("projection" in judged.warnings) == warned


def _acquired(parts: Sequence[Sequence[int]]) -> tuple[list[int], dict[int, dict[str, Any]]]:
    """Planes in order, by their place in space, and what each slice is to say, acquisition by acquisition."""
    planes = [plane for part in parts for plane in part]
    numbers = [number for number, part in enumerate(parts, 1) for _ in part]
    return planes, {
        n: {
            "AcquisitionNumber": number,
            "ImagePositionPatient": [-8.0, 4.0, 2.5 * plane],
            "SOPInstanceUID": f"1.2.3.{n}",
        }
        for n, (plane, number) in enumerate(zip(planes, numbers, strict=True))
    }


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ([range(4), range(3, 7), range(6, 10)], {"duplicate_positions": 12}),
        ([range(10), range(8, 20)], {"duplicate_positions": 22}),
        ([[n // 2] for n in range(8)], {"duplicate_positions": 8}),
        ([range(10), range(5, 20)], {}),
        ([range(10), range(10)], {}),
        ([range(10), [9]], {"single_slice": 1}),
    ],
    ids=["step and shoot", "slabs", "one a slice", "phases of other lengths", "phases", "a single one"],
)
def test_acquisitions_that_only_meet_are_no_volumes(
    tmp_path: Path, parts: Sequence[Sequence[int]], found: dict[str, int]
) -> None:
    """They would cut a tumour in two, or be too short for anything to be measured, and nothing would say so."""
    planes, said = _acquired(parts)
    stored = np.random.default_rng(7).integers(0, 1000, (len(planes), 8, 8)).astype(np.uint16)
    write_series(tmp_path, stored, per_slice=said)
    assert {reason: n for reason, n in reasons(tmp_path).items() if reason != "readable"} == found


def test_acquisitions_that_do_not_repeat_stay_together(tmp_path: Path) -> None:
    """A scan in two table feeds is one volume."""
    series = write_series(tmp_path, per_slice={k: {"AcquisitionNumber": 1 + k // 3} for k in range(6)})
    assert_volume(read_one(tmp_path), series.hu, axial_affine_ras())


def test_several_series_in_one_folder(tmp_path: Path) -> None:
    """Grouped by UID, each with its own values, however the names are mixed."""
    one = write_series(tmp_path, names=[f"{k}a" for k in range(6)])
    other_uids = {k: {"SOPInstanceUID": f"1.2.9.{k}"} for k in range(6)}
    two = write_series(
        tmp_path, one.stored + 7, names=[f"{k}b" for k in range(6)], per_slice=other_uids, SeriesInstanceUID="1.2.9"
    )
    volumes = {judged.verdict.series_key: judged.volume for judged in judge(tmp_path)}
    assert set(volumes) == {SERIES_UID, "1.2.9"}
    assert_volume(volumes[SERIES_UID], one.hu, axial_affine_ras())  # type: ignore[arg-type]
    assert_volume(volumes["1.2.9"], two.hu, axial_affine_ras())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changed",
    [
        {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]},
        {"PixelSpacing": [0.8, 0.5]},
        {"Rows": 10},
    ],
)
def test_slices_that_do_not_match_are_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    """Another orientation, pixel spacing or size in one slice: no one volume."""
    write_series(tmp_path, per_slice={3: changed})
    assert reasons(tmp_path) == {"inconsistent_geometry": 6}


def test_a_lost_file_in_the_middle_shows_as_a_gap(tmp_path: Path) -> None:
    """Junk in place of a slice is counted, and the rest is checked again."""
    series = write_series(tmp_path)
    series.paths[2].write_bytes(b"junk" * 100)
    assert reasons(tmp_path) == {"missing_slices": 5, "not_an_image": 1}


@pytest.mark.parametrize(
    ("numbers", "warned"),
    [
        ([1, 3, 5, 7, 9, 11], True),  # every second slice was lost
        ([17, 16, 15, 14, 12, 11], True),
        ([267, 268, 269, 270, 271, 272], False),
        ([1, 1, 1, 1, 1, 1], False),
        ([1, None, 3, None, 5, None], False),  # not all are told
        ([1, 2, 3, 5, 6, 7], False),  # the fourth is the localizer's
    ],
)
def test_instance_numbers_that_are_skipped(tmp_path: Path, numbers: list[int | None], warned: bool) -> None:
    """Slices that lie regularly do not show what was lost between them; their numbers do, where nobody has them."""
    write_series(tmp_path, per_slice={k: {"InstanceNumber": number} for k, number in enumerate(numbers)})
    if numbers[3] == 5:
        localizer = ct_slice(stored_values()[0], 3, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
        save(localizer, tmp_path / "localizer")
    assert read_one(tmp_path).warnings == (("instance_numbers_skipped",) if warned else ())


@pytest.mark.parametrize("damage", [b"", b"junk" * 100, b"\0" * 128 + b"DICM" + b"\xff" * 90])
def test_a_lost_file_at_the_end_is_warned_about(tmp_path: Path, damage: bytes) -> None:
    """No gap shows it, so the shorter volume carries a warning."""
    series = write_series(tmp_path)
    series.paths[5].write_bytes(damage)
    volume = read_one(tmp_path)
    assert_volume(volume, series.hu[:5], axial_affine_ras())
    assert volume.warnings == ("instances_left_out",)


def test_a_damaged_file_elsewhere_is_no_warning(tmp_path: Path) -> None:
    """Only files beside the series may have been its slices."""
    write_series(tmp_path / "a")
    (tmp_path / "b.dcm").write_bytes(b"")
    assert read_one(tmp_path).warnings == ()


def test_empty_uids_come_from_the_file_meta_and_the_folder(tmp_path: Path) -> None:
    """Two series without UIDs in two folders stay two; every instance is kept."""
    empty = {"SOPInstanceUID": "", "SeriesInstanceUID": "", "StudyInstanceUID": ""}
    write_series(tmp_path / "a", **empty)
    write_series(tmp_path / "b", per_slice={0: {"MediaStorageSOPInstanceUID": ""}}, **empty)
    found = judge(tmp_path)
    assert [judged.reason for judged in found] == [None, None]
    assert len({judged.verdict.series_key for judged in found}) == 2
    assert found[0].warnings == {"series_uid_derived"}
    assert {"series_uid_derived", "instance_uid_missing"} in [judged.warnings for judged in found]


def test_instances_without_uid_are_never_taken_for_copies(tmp_path: Path) -> None:
    """Six slices without any instance UID are six slices."""
    series = write_series(tmp_path, SOPInstanceUID="", MediaStorageSOPInstanceUID="")
    assert_volume(read_one(tmp_path), series.hu, axial_affine_ras())


@pytest.mark.parametrize("uid", ["../../x", "/etc/passwd", "1.2.a", "1" * 65, "1.2/3"])
def test_uids_that_are_none_are_derived(tmp_path: Path, uid: str) -> None:
    """What cannot name a directory names nothing; two such series in one folder stay apart."""
    write_series(tmp_path, names=[f"{k}a" for k in range(6)], SeriesInstanceUID=uid, StudyInstanceUID=uid)
    write_series(tmp_path, names=[f"{k}b" for k in range(6)], SeriesInstanceUID=f"{uid}y", StudyInstanceUID=uid)
    found = judge(tmp_path)
    assert [judged.reason for judged in found] == [None, None]
    for judged in found:
        assert judged.verdict.ref is not None
        named = [judged.verdict.series_key, judged.verdict.ref.series_instance_uid]
        assert all(set(name) <= set("0123456789.-") for name in [*named, judged.verdict.ref.study_instance_uid])


def test_a_series_in_two_studies_is_two_series(tmp_path: Path) -> None:
    """Series UIDs are compared within their study."""
    write_series(tmp_path / "a")
    write_series(tmp_path / "b", StudyInstanceUID=f"{STUDY_UID}.9")
    assert [judged.verdict.series_key for judged in judge(tmp_path)] == [SERIES_UID, f"{SERIES_UID}-2"]


def test_a_header_that_claims_too_much_is_refused_before_reading(tmp_path: Path) -> None:
    """The bound holds for one slice of absurd size and for many small ones."""
    write_series(tmp_path / "a", Rows=65535, Columns=65535)
    assert reasons(tmp_path / "a") == {"too_large": 6}
    write_series(tmp_path / "b")
    assert reasons(tmp_path / "b", ReadingConfig(max_voxels=6 * 12 * 16 - 1)) == {"too_large": 6}
    assert reasons(tmp_path / "b", ReadingConfig(max_voxels=6 * 12 * 16)) == {"readable": 6}


def test_simpleitk_agrees_where_it_is_right(tmp_path: Path) -> None:
    """An upright series with uniform whole rescale: same values, origin, spacing and direction."""
    write_series(tmp_path, ImageOrientationPatient=list(AXIAL))
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image, volume = reader.Execute(), read_one(tmp_path)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), volume.volume_hu)
    np.testing.assert_allclose(image.GetOrigin(), volume.geometry.lps_from_kji[:3, 3])
    np.testing.assert_allclose(image.GetSpacing()[::-1], volume.geometry.spacing_mm)
