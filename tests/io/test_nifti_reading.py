"""NIfTI in world space: nibabel's affine and values for what is sound, a reason for what is not."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK
from factories import patch_nifti, stored_values, write_nifti
from reading import judge, read_one, reasons

from vaeseg.config import ReadingConfig
from vaeseg.errors import ReadingError
from vaeseg.geometry.affine import geometry_from_ras, ras_from_ijk
from vaeseg.io.nifti import read_label, read_nifti
from vaeseg.io.nifti import write_nifti as write_volume
from vaeseg.records import Volume

Array = npt.NDArray[Any]
HU = stored_values().T.astype(np.int16) - 1024
"""(I, J, K), as nibabel has it."""
OBLIQUE = np.array([[-0.48, 0.1, 0.2, 7.0], [0.05, -0.72, 0.3, -9.0], [0.02, 0.06, 2.4, 11.0], [0, 0, 0, 1.0]])


def assert_like_nibabel(volume: Volume, path: Path) -> None:
    """Values and affine as `nibabel.load` has them, values clipped at -1024."""
    image = nibabel.load(path)
    expected = np.asarray(image.dataobj).reshape(volume.volume_hu.shape[::-1]).T.astype(np.float64)
    np.testing.assert_array_equal(volume.volume_hu, np.maximum(expected, -1024).astype(volume.volume_hu.dtype))
    np.testing.assert_array_equal(ras_from_ijk(volume.geometry), image.affine)


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz", "V.NII.GZ", "without_suffix"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_plain_and_gzip_both_versions(tmp_path: Path, name: str, kind: type[Any]) -> None:
    """Known by content, not by name."""
    made = tmp_path / ("made.nii.gz" if name.lower().endswith("gz") else "made.nii")
    write_nifti(made, HU, kind=kind)
    volume = read_one(made.rename(tmp_path / name))
    np.testing.assert_array_equal(volume.volume_hu, HU.T)
    np.testing.assert_array_equal(ras_from_ijk(volume.geometry), np.diag([-0.5, -0.75, 2.5, 1.0]))
    assert volume.warnings == ()


@pytest.mark.parametrize(
    ("axes", "signs"), [(axes, signs) for axes in permutations(range(3)) for signs in product((1, -1), repeat=3)]
)
def test_every_axis_order(tmp_path: Path, axes: tuple[int, ...], signs: tuple[int, ...]) -> None:
    """Permuted and mirrored, determinants of both signs: nibabel's affine, and the absolute volume."""
    affine = np.zeros((4, 4))
    for n, (axis, sign, spacing) in enumerate(zip(axes, signs, (0.5, 0.75, 2.5), strict=True)):
        affine[axis, n] = sign * spacing
    affine[:, 3] = (7, -11, 13, 1)
    write_nifti(tmp_path / "v.nii", HU, affine)
    volume = read_one(tmp_path)
    assert_like_nibabel(volume, tmp_path / "v.nii")
    assert volume.geometry.voxel_volume_mm3 == pytest.approx(0.5 * 0.75 * 2.5)


def test_oblique_and_sheared(tmp_path: Path) -> None:
    """A general sform, the volume being its determinant."""
    write_nifti(tmp_path / "v.nii", HU, OBLIQUE)
    volume = read_one(tmp_path)
    assert_like_nibabel(volume, tmp_path / "v.nii")
    assert volume.geometry.voxel_volume_mm3 == pytest.approx(abs(np.linalg.det(OBLIQUE[:3, :3])), rel=1e-6)
    assert volume.warnings == ("qform_sform_differ",)


@pytest.mark.parametrize(("qform_code", "sform_code"), [(1, 0), (0, 1), (1, 1), (3, 2), (0, 4)])
def test_qform_only_sform_only_and_both(tmp_path: Path, qform_code: int, sform_code: int) -> None:
    """Either places the volume."""
    affine = nibabel.affines.from_matvec(np.diag([-0.5, 0.75, 2.5]), [1, 2, 3])
    write_nifti(tmp_path / "v.nii", HU, affine, qform_code=qform_code, sform_code=sform_code)
    volume = read_one(tmp_path)
    assert_like_nibabel(volume, tmp_path / "v.nii")
    assert volume.warnings == ()


def test_qform_and_sform_that_differ(tmp_path: Path) -> None:
    """The sform is taken, as nibabel does, and the doubt is passed on: others take the qform."""
    write_nifti(tmp_path / "v.nii", HU, qoffset_x=40.0)
    volume = read_one(tmp_path)
    assert_like_nibabel(volume, tmp_path / "v.nii")
    assert volume.warnings == ("qform_sform_differ",)


@pytest.mark.parametrize(
    ("pixdim", "warned"),
    [
        ((0.5, 0.75, 2.5), False),
        ((0.502, 0.75, 2.5), False),
        ((1, 1, 1), True),
        ((0.75, 0.5, 2.5), True),
    ],
)
def test_a_spacing_beside_the_sform_that_is_another(
    tmp_path: Path, pixdim: tuple[float, float, float], warned: bool
) -> None:
    """Where no qform says the same: others measure by it."""
    affine = nibabel.affines.from_matvec(np.diag([-0.5, 0.75, 2.5]), [1, 2, 3])
    write_nifti(tmp_path / "v.nii", HU, affine, qform_code=0, sform_code=2)
    patch_nifti(tmp_path / "v.nii", pixdim=(1, *pixdim, 0, 0, 0, 0))
    volume = read_one(tmp_path)
    assert volume.geometry.spacing_mm == pytest.approx((2.5, 0.75, 0.5))
    assert volume.warnings == (("pixdim_differs",) if warned else ())


def test_neither_qform_nor_sform(tmp_path: Path) -> None:
    """No place in the patient, so no volume in millilitres."""
    write_nifti(tmp_path / "v.nii", HU, qform_code=0, sform_code=0)
    assert reasons(tmp_path) == {"no_affine": 1}


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_voxel_type_and_byte_order(tmp_path: Path, dtype: str, order: str) -> None:
    """Whole values come out as int16, whatever they were stored as."""
    values = (stored_values().T % 120).astype(dtype)
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_dtype(dtype)
    image = nibabel.Nifti1Image(values, np.diag([1.0, 2, 3, 1]), header, dtype=dtype)
    nibabel.save(image, tmp_path / "v.nii")
    assert (tmp_path / "v.nii").read_bytes()[:4] == np.array(348, f"{order}i4").tobytes()
    volume = read_one(tmp_path)
    assert_like_nibabel(volume, tmp_path / "v.nii")
    assert volume.volume_hu.dtype == np.int16


@pytest.mark.parametrize("slope", [0.0, np.nan, np.inf, 1.0])
def test_a_slope_that_is_none(tmp_path: Path, slope: float) -> None:
    """0, NaN and infinity mean no scaling; the intercept beside them is void too."""
    write_nifti(tmp_path / "v.nii", HU, scl_slope=slope, scl_inter=0.0 if slope == 1 else 99.0)
    volume = read_one(tmp_path)
    np.testing.assert_array_equal(volume.volume_hu, HU.T)
    assert_like_nibabel(volume, tmp_path / "v.nii")


@pytest.mark.parametrize(("slope", "inter", "dtype"), [(2, 10, "i2"), (1, -3, "i2"), (0.25, 0.1, "f4"), (-1, 0, "i2")])
def test_scaling(tmp_path: Path, slope: float, inter: float, dtype: str) -> None:
    """Scaled in double precision; float32 only where there are fractions."""
    write_nifti(tmp_path / "v.nii", HU, scl_slope=slope, scl_inter=inter)
    volume = read_one(tmp_path)
    assert volume.volume_hu.dtype == np.dtype(dtype)
    expected = np.maximum(HU.T * float(np.float32(slope)) + float(np.float32(inter)), -1024)
    np.testing.assert_array_equal(volume.volume_hu, expected.astype(np.float32))


def test_fractional_voxels_are_float32(tmp_path: Path) -> None:
    """And values below air are clipped with a warning, as in DICOM."""
    values = HU.astype(np.float64) + 0.5
    values[0] = -3024.0
    write_nifti(tmp_path / "v.nii", values)
    volume = read_one(tmp_path)
    assert volume.volume_hu.dtype == np.float32
    np.testing.assert_array_equal(volume.volume_hu, np.maximum(values, -1024).T.astype(np.float32))
    assert volume.warnings == ("padding_clipped",)


def float_with(value: float) -> Array:
    values = HU.astype(np.float64)
    values[3, 4, 5] = value
    return values


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_voxels_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    """One is enough; 1e300 is none in float32."""
    write_nifti(tmp_path / "v.nii", float_with(value))
    assert reasons(tmp_path) == {"non_finite_voxels": 1}


@pytest.mark.parametrize("values", [HU.astype(np.float32) / 4096, (HU + 1024).astype(np.uint16) * 30])
def test_images_that_whole_numbers_of_16_bits_cannot_hold(tmp_path: Path, values: Array) -> None:
    """Models are given no others: fractions in a small range would be lost, greater values would wrap round."""
    write_nifti(tmp_path / "v.nii", values)
    assert reasons(tmp_path) == {"not_hounsfield_units": 1}


@pytest.mark.parametrize("values", [HU * 0, (HU > 0).astype(np.int16), (HU % 15).astype(np.uint8)])
def test_a_label_among_images_is_none(tmp_path: Path, values: Array) -> None:
    """Segmented, it would have no tumour: a number that looks right."""
    write_nifti(tmp_path / "v.nii", values)
    assert reasons(tmp_path) == {"not_hounsfield_units": 1}


@pytest.mark.parametrize(("lowest", "warned"), [(-1, False), (0, True), (3, True)])
def test_images_without_a_negative_value_are_warned_of(tmp_path: Path, lowest: int, warned: bool) -> None:
    """Every CT holds some air; 8 bits of grey do not."""
    write_nifti(tmp_path / "v.nii", (HU - HU.min() + lowest).astype(np.int16))
    (judged,) = judge(tmp_path)
    assert ("no_negative_values" in judged.warnings) == warned


def test_a_label_may_have_values_above_16_bits(tmp_path: Path) -> None:
    """It is no image."""
    values = (HU + 1024).astype(np.uint16) * 30
    write_nifti(tmp_path / "v.nii", values)
    label = read_label(tmp_path / "v.nii", ReadingConfig())
    np.testing.assert_array_equal(label.mask, values.T > 0)
    assert label.values == (values[values > 0].min(), values.max())


def test_a_file_without_a_byte_is_said_to_be_one(tmp_path: Path) -> None:
    """As in an archive."""
    (tmp_path / "v.nii.gz").touch()
    with pytest.raises(ReadingError, match=r"^empty_file: 0 bytes"):
        read_nifti(tmp_path / "v.nii.gz", ReadingConfig())


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((16, 12, 6, 1), "readable"),
        ((16, 12, 6, 1, 1), "readable"),
        ((16, 12, 6, 2), "not_three_dimensional"),
        ((16, 12, 6, 1, 3), "not_three_dimensional"),
        ((16, 12), "not_three_dimensional"),
        ((16, 12, 1), "readable"),
    ],
)
def test_dimensions(tmp_path: Path, shape: tuple[int, ...], reason: str) -> None:
    """Trailing ones are no dimensions; time and vectors are not read as space."""
    write_nifti(tmp_path / "v.nii", np.arange(np.prod(shape), dtype=np.int16).reshape(shape))
    assert reasons(tmp_path) == {reason: 1}


@pytest.mark.parametrize("dtype", [[("R", "u1"), ("G", "u1"), ("B", "u1")], "c8", "c16"])
def test_voxels_of_colour_or_complex_numbers(tmp_path: Path, dtype: Any) -> None:
    """Not Hounsfield units."""
    write_nifti(tmp_path / "v.nii", np.zeros((4, 4, 4), dtype=dtype))
    assert reasons(tmp_path) == {"unsupported_pixel_format": 1}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "too_large"),
        ({"dim": [3, -16, 12, 6, 1, 1, 1, 1]}, "not_three_dimensional"),
        ({"dim": [3, 0, 12, 6, 1, 1, 1, 1]}, "not_three_dimensional"),
        ({"dim": [0, 16, 12, 6, 1, 1, 1, 1]}, "not_three_dimensional"),
        ({"dim": [3, 16, 12, 7, 1, 1, 1, 1]}, "truncated_pixel_data"),
        ({"datatype": 9999}, "damaged_file"),
        ({"datatype": 64, "bitpix": 64}, "truncated_pixel_data"),
        ({"vox_offset": np.nan}, "damaged_file"),
        ({"vox_offset": -1}, "damaged_file"),
        ({"vox_offset": 0}, "damaged_file"),
        ({"vox_offset": 1e30}, "damaged_file"),
        ({"vox_offset": 1000}, "truncated_pixel_data"),
        ({"scl_slope": 2.0, "scl_inter": np.inf}, "damaged_file"),
        ({"srow_x": [0, 0, 0, 0]}, "singular_affine"),
        ({"srow_x": [np.nan, 0, 0, 0]}, "singular_affine"),
        ({"srow_x": [1e30, 0, 0, 0]}, "invalid_geometry"),
        ({"srow_x": [0, 0.75, 0, 0]}, "singular_affine"),
        ({"sform_code": 0, "pixdim": [1, 0, 0.75, 2.5, 0, 0, 0, 0]}, "damaged_file"),
        ({"sform_code": 0, "pixdim": [1, np.nan, 0.75, 2.5, 0, 0, 0, 0]}, "singular_affine"),
        ({"sform_code": 0, "quatern_b": 5.0}, "singular_affine"),
        ({"xyzt_units": 1}, "unsupported_units"),
        ({"xyzt_units": 3}, "unsupported_units"),
        ({"xyzt_units": 0}, "readable"),
        ({"xyzt_units": 10}, "readable"),
        ({"magic": b"ni1"}, "nifti_pair_unsupported"),
        ({"sizeof_hdr": 1543569408}, "readable"),
    ],
)
def test_header_fields(tmp_path: Path, fields: dict[str, Any], reason: str) -> None:
    """Claims beyond the file, damage, other units: each with its reason."""
    write_nifti(tmp_path / "v.nii", HU, **fields)
    if reason == "readable":
        assert_like_nibabel(read_one(tmp_path), tmp_path / "v.nii")
    assert reasons(tmp_path) == {reason: 1}


def test_negative_spacing_is_mended_as_nibabel_does(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """In a qform it means its absolute value; nothing is printed about it."""
    write_nifti(tmp_path / "v.nii", HU, sform_code=0, pixdim=[1, -0.5, 0.75, 2.5, 0, 0, 0, 0])
    volume = read_one(tmp_path)
    assert capfd.readouterr().err == ""
    assert_like_nibabel(volume, tmp_path / "v.nii")


def test_nifti2_claims_beyond_any_memory(tmp_path: Path) -> None:
    """64-bit dimensions, whose product does not fit 64 bits."""
    write_nifti(tmp_path / "v.nii", HU, kind=nibabel.Nifti2Image, dim=[3, 2**40, 2**40, 2**40, 1, 1, 1, 1])
    assert reasons(tmp_path) == {"too_large": 1}


def flip(raw: bytes, position: int) -> bytes:
    return raw[:position] + bytes([raw[position] ^ 0x10]) + raw[position + 1 :]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda raw: raw[: len(raw) // 2], "damaged_file"),
        (lambda raw: raw[:-1], "damaged_file"),
        (lambda raw: raw[:-9], "damaged_file"),
        (lambda raw: raw[:12], "damaged_file"),
        (lambda raw: flip(raw, len(raw) // 2), "damaged_file"),
        (lambda raw: flip(raw, len(raw) - 6), "damaged_file"),
        (lambda raw: flip(raw, len(raw) - 1), "damaged_file"),
        (lambda raw: raw + b"rubbish", "readable"),
        (lambda raw: raw + bytes(5000), "readable"),
        (lambda raw: raw + gzip.compress(b"more"), "readable"),
        (lambda raw: gzip.compress(gzip.decompress(raw)[:300]), "damaged_file"),
        (lambda raw: gzip.compress(gzip.decompress(raw)[:900]), "truncated_pixel_data"),
    ],
)
def test_damaged_gzip(tmp_path: Path, damage: Callable[[bytes], bytes], reason: str) -> None:
    """Cut anywhere, one bit of data, CRC or length: refused. What follows the stream leaves it as it is."""
    write_nifti(tmp_path / "v.nii.gz", HU)
    (tmp_path / "v.nii.gz").write_bytes(damage((tmp_path / "v.nii.gz").read_bytes()))
    assert reasons(tmp_path) == {reason: 1}
    if reason == "readable":
        np.testing.assert_array_equal(read_one(tmp_path).volume_hu, HU.T)


def test_gzip_in_members_and_with_a_long_name(tmp_path: Path) -> None:
    """As pigz and bgzip write it: the header of the volume lies across members, behind a long file name."""
    write_nifti(tmp_path / "v.nii", HU)
    raw = (tmp_path / "v.nii").read_bytes()
    (tmp_path / "v.nii").unlink()
    with (tmp_path / "v.nii.gz").open("wb") as file:
        for start in range(0, len(raw), 100):
            with gzip.GzipFile("n" * 250, "wb", 0, file, 0) as member:
                member.write(raw[start : start + 100])
    np.testing.assert_array_equal(read_one(tmp_path).volume_hu, HU.T)


def test_a_gzip_bomb_is_refused(tmp_path: Path) -> None:
    """A sound volume and then zeros without end."""
    write_nifti(tmp_path / "v.nii", HU)
    raw = (tmp_path / "v.nii").read_bytes()
    (tmp_path / "v.nii").unlink()
    (tmp_path / "v.nii.gz").write_bytes(gzip.compress(raw + bytes(2**20)))
    assert reasons(tmp_path, ReadingConfig(max_header_bytes=2**19)) == {"too_large": 1}


@pytest.mark.parametrize("cut", [0, 1, 100, 347, 352, 353, -1])
def test_truncated_plain(tmp_path: Path, cut: int) -> None:
    """No gzip, no CRC, but a length."""
    write_nifti(tmp_path / "v.nii", HU)
    (tmp_path / "v.nii").write_bytes((tmp_path / "v.nii").read_bytes()[:cut])
    assert set(reasons(tmp_path)) <= {"truncated_pixel_data", "damaged_file", "empty_file"}


def test_excess_is_warned_about(tmp_path: Path) -> None:
    """The volume is its first bytes."""
    write_nifti(tmp_path / "v.nii", HU)
    with (tmp_path / "v.nii").open("ab") as file:
        file.write(b"rubbish")
    volume = read_one(tmp_path)
    np.testing.assert_array_equal(volume.volume_hu, HU.T)
    assert volume.warnings == ("excess_pixel_data",)


def test_pairs_and_analyze(tmp_path: Path) -> None:
    """Two files are no volume here: counted, each with a reason."""
    nibabel.save(nibabel.Nifti1Pair(HU, np.eye(4)), tmp_path / "pair.hdr")
    nibabel.save(nibabel.AnalyzeImage(HU, np.eye(4)), tmp_path / "analyze.hdr")
    assert reasons(tmp_path) == {"nifti_pair_unsupported": 1, "not_an_image": 3}


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
def test_text_under_a_nifti_name(tmp_path: Path, name: str) -> None:
    """Counted as a damaged volume, since the name promises one."""
    (tmp_path / name).write_text("not a volume\n" * 100)
    assert reasons(tmp_path) == {"damaged_file": 1}


def test_a_nifti_series_uid_is_its_name(tmp_path: Path) -> None:
    """Another for another name."""
    write_nifti(tmp_path / "one.nii", HU)
    write_nifti(tmp_path / "two.nii", HU)
    one, two = (judged.verdict.ref for judged in judge(tmp_path))
    assert one is not None
    assert two is not None
    assert one.series_instance_uid != two.series_instance_uid


def test_simpleitk_agrees(tmp_path: Path) -> None:
    """A rigid affine: values, spacing and origin, in LPS."""
    write_nifti(tmp_path / "v.nii.gz", HU, np.array([[-0.5, 0, 0, 4], [0, 0, 2.5, 5], [0, 0.75, 0, 6], [0, 0, 0, 1]]))
    image, volume = SimpleITK.ReadImage(tmp_path / "v.nii.gz"), read_one(tmp_path)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), volume.volume_hu)
    np.testing.assert_allclose(image.GetSpacing()[::-1], volume.geometry.spacing_mm, rtol=1e-6)
    for ijk in [(0, 0, 0), (15, 0, 0), (3, 11, 5)]:
        lps = volume.geometry.lps_from_kji @ [*ijk[::-1], 1]
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(ijk), lps[:3], atol=1e-5)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("affine", [np.diag([-0.5, -0.75, 2.5, 1.0]), OBLIQUE])
def test_what_is_written_is_read_back(tmp_path: Path, suffix: str, affine: Array) -> None:
    """Values exactly, the affine to float32, sheared grids too; the same bytes each time."""
    geometry = geometry_from_ras((6, 12, 16), affine)
    one = write_volume(tmp_path / f"v{suffix}", HU.T, geometry)
    assert one == write_volume(tmp_path / f"v{suffix}", HU.T, geometry) == (tmp_path / f"v{suffix}").read_bytes()
    volume = read_one(tmp_path)
    np.testing.assert_array_equal(volume.volume_hu, HU.T)
    np.testing.assert_allclose(ras_from_ijk(volume.geometry), affine, rtol=1e-6, atol=1e-6)
    assert volume.warnings == ()
    assert [path.name for path in tmp_path.iterdir()] == [f"v{suffix}"]


def test_a_volume_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    """No partial file under any name."""
    geometry = geometry_from_ras((6, 12, 16), np.eye(4))
    (tmp_path / "v.nii").mkdir()
    with pytest.raises(OSError, match=r"v\.nii"):
        write_volume(tmp_path / "v.nii", HU.T, geometry)
    assert [path.name for path in tmp_path.iterdir()] == ["v.nii"]


def test_written_files_have_the_permissions_of_any_file(tmp_path: Path) -> None:
    """As the umask says, not those of a private temporary file."""
    (tmp_path / "plain").touch()
    write_volume(tmp_path / "v.nii.gz", HU.T, geometry_from_ras((6, 12, 16), np.eye(4)))
    assert (tmp_path / "v.nii.gz").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_patching_is_honest(tmp_path: Path) -> None:
    """The factory changes the field it names and nothing else."""
    write_nifti(tmp_path / "v.nii", HU)
    before = (tmp_path / "v.nii").read_bytes()
    patch_nifti(tmp_path / "v.nii", qform_code=1)
    assert (tmp_path / "v.nii").read_bytes() == before


def test_a_pipe_in_the_place_of_a_file_is_refused_unopened(tmp_path: Path) -> None:
    """Opening one waits for a writer for ever; here one has it open, so that this test ends either way."""
    os.mkfifo(tmp_path / "v.nii.gz")
    writer = os.open(tmp_path / "v.nii.gz", os.O_RDWR)
    try:
        os.write(writer, bytes(1000))
        with pytest.raises(ReadingError, match="not_a_regular_file: a directory, device, pipe or socket"):
            read_nifti(tmp_path / "v.nii.gz", ReadingConfig())
        assert len(os.read(writer, 1000)) == 1000
    finally:
        os.close(writer)
