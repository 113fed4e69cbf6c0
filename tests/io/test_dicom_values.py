"""Hounsfield units of each instance by its own rescale, whatever way the stored bits are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import SHAPE, axial_affine_ras, ct_slice, save, stored_values, write_series
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from reading import assert_volume, judge, read_one, reasons

from vaeseg.config import ReadingConfig
from vaeseg.io import part10, pixels
from vaeseg.io.dicom import quiet_pydicom

TWELVE_BITS = {"BitsStored": 12, "HighBit": 11}


def test_rescale_of_each_slice(tmp_path: Path) -> None:
    """Slope and intercept vary by slice on some scanners; each slice has its own."""
    per_slice = {k: {"RescaleSlope": str(1 + k % 2), "RescaleIntercept": str(-1000 - k)} for k in range(6)}
    series = write_series(tmp_path, per_slice=per_slice)
    expected = np.stack([plane.astype(int) * (1 + k % 2) - 1000 - k for k, plane in enumerate(series.stored)])
    volume = read_one(tmp_path)
    np.testing.assert_array_equal(volume.volume_hu, np.maximum(expected, -1024))
    assert volume.volume_hu.dtype == np.int16


def test_fractional_rescale_is_float32_and_not_rounded(tmp_path: Path) -> None:
    """One slice with a fractional slope makes the volume float32, earlier slices included."""
    series = write_series(tmp_path, per_slice={3: {"RescaleSlope": "0.3"}})
    expected = series.hu.astype(np.float64)
    expected[3] = series.stored[3] * 0.3 - 1024
    volume = read_one(tmp_path)
    assert volume.volume_hu.dtype == np.float32
    np.testing.assert_array_equal(volume.volume_hu, expected.astype(np.float32))


def test_missing_rescale_is_the_identity_with_a_warning(tmp_path: Path) -> None:
    """Nothing says that the values are HU."""
    series = write_series(tmp_path, RescaleSlope=None, RescaleIntercept=None, RescaleType=None)
    volume = read_one(tmp_path)
    np.testing.assert_array_equal(volume.volume_hu, series.stored)
    assert volume.warnings == ("no_negative_values", "rescale_missing")


@pytest.mark.parametrize("absent", ["RescaleSlope", "RescaleIntercept"])
@pytest.mark.parametrize("value", [None, ""])
def test_half_a_rescale_is_a_warning(tmp_path: Path, absent: str, value: str | None) -> None:
    """Slope 1 and intercept 0 stand in for what is not there, or is there and empty."""
    series = write_series(tmp_path, **{absent: value})
    volume = read_one(tmp_path)
    np.testing.assert_array_equal(volume.volume_hu, series.stored if absent == "RescaleIntercept" else series.hu)
    no_air = ("no_negative_values",) if absent == "RescaleIntercept" else ()
    assert volume.warnings == (*no_air, "rescale_missing")


def test_values_without_air_are_warned_of(tmp_path: Path) -> None:
    """HU + 1024 with an intercept of 0, as some exports have it: a model of HU finds nothing there."""
    write_series(tmp_path / "a", RescaleIntercept="0")
    write_series(tmp_path / "b")
    assert read_one(tmp_path / "a").warnings == ("no_negative_values",)
    assert read_one(tmp_path / "b").warnings == ()


@pytest.mark.parametrize("blank", [0, 1, 2])
def test_slices_of_a_single_value_are_warned_of(tmp_path: Path, blank: int) -> None:
    """Wherever they lie: a copy that was preallocated and broke off; nearly one is none."""
    stored = stored_values()
    stored[blank] = 0
    write_series(tmp_path / "a", stored)
    assert read_one(tmp_path / "a").warnings == ("blank_slices",)
    stored[blank, -1, -1] = 1
    write_series(tmp_path / "b", stored)
    assert read_one(tmp_path / "b").warnings == ()


@pytest.mark.parametrize(
    ("slope", "intercept"), [("0", "-1024"), ("1\\2", "-1024"), ("abc", "-1024"), ("1", "nan"), ("inf", "0")]
)
def test_rescale_that_is_no_number_is_refused(tmp_path: Path, slope: str, intercept: str) -> None:
    """A slope of 0 flattens the slice, and text is no slope."""

    def damage(dataset: FileDataset) -> None:
        for keyword, value in (("RescaleSlope", slope), ("RescaleIntercept", intercept)):
            tag = dataset[keyword].tag
            del dataset[keyword]
            dataset.add_new(tag, "LO", value.split("\\"))

    write_series(tmp_path, encode=damage)
    assert reasons(tmp_path) == {"unsupported_pixel_format": 6}


def test_rescale_type_that_is_not_hu(tmp_path: Path) -> None:
    """Dual-energy maps say US or MGML; the volume is read and warned about."""
    write_series(tmp_path, RescaleType="US")
    assert read_one(tmp_path).warnings == ("rescale_type_not_hu",)


def test_modality_lut(tmp_path: Path) -> None:
    """A table from stored value 100 on: values below and above take the first and last entry."""

    def with_table(dataset: FileDataset) -> None:
        table = Dataset()
        table.LUTDescriptor, table.ModalityLUTType = [64, 100, 16], "HU"
        table.add_new(0x00283006, "US", [1000 + 2 * n for n in range(64)])
        dataset.ModalityLUTSequence = Sequence([table])
        del dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType

    series = write_series(tmp_path, encode=with_table)
    volume = read_one(tmp_path)
    expected = 1000 + 2 * (np.clip(series.stored.astype(int), 100, 163) - 100)
    np.testing.assert_array_equal(volume.volume_hu, expected)
    assert volume.warnings == ("blank_slices", "no_negative_values")  # all beyond the table's ends is one value


def test_a_damaged_modality_lut_is_refused(tmp_path: Path) -> None:
    """Fewer entries than it says."""

    def with_table(dataset: FileDataset) -> None:
        table = Dataset()
        table.LUTDescriptor = [64, 100, 16]
        table.add_new(0x00283006, "US", [1, 2, 3])
        dataset.ModalityLUTSequence = Sequence([table])

    write_series(tmp_path, encode=with_table)
    assert reasons(tmp_path) == {"decode_failed": 6}


def test_signed_values(tmp_path: Path) -> None:
    """PixelRepresentation 1, intercept 0: GE and others."""
    stored = (stored_values().astype(np.int16) - 1000).astype(np.int16)
    write_series(tmp_path, stored, RescaleIntercept="0")
    assert_volume(read_one(tmp_path), stored, axial_affine_ras())


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("garbage", [0x0000, 0xA000, 0xF000])
def test_high_bits_are_not_part_of_the_value(tmp_path: Path, signed: bool, garbage: int) -> None:
    """12 bits stored: overlays and rubbish above them are masked, and bit 11 is the sign where there is one."""
    values = stored_values().astype(np.int32) + (-700 if signed else 2000)
    written = ((values & 0x0FFF) | garbage).astype(np.uint16)
    kind: dict[str, Any] = {"PixelRepresentation": int(signed), "RescaleIntercept": "0" if signed else "-1024"}
    write_series(tmp_path, written, **TWELVE_BITS, **kind)
    assert_volume(read_one(tmp_path), values if signed else values - 1024, axial_affine_ras())


def test_monochrome1_is_never_inverted(tmp_path: Path) -> None:
    """It says how to show the values, not what they are."""
    series = write_series(tmp_path, PhotometricInterpretation="MONOCHROME1")
    volume = read_one(tmp_path)
    assert_volume(volume, series.hu, axial_affine_ras())
    assert volume.warnings == ("monochrome1",)


@pytest.mark.parametrize("padding", [-2000, -3024])
def test_padding_is_clipped_with_a_warning(tmp_path: Path, padding: int) -> None:
    """Outside the circle of reconstruction scanners write values that no matter has."""
    stored = stored_values().astype(np.int16)
    stored[:, :2] = padding
    write_series(tmp_path, stored, RescaleIntercept="0", PixelPaddingValue=padding)
    volume = read_one(tmp_path)
    expected = stored.copy()
    expected[:, :2] = -1024
    assert_volume(volume, expected, axial_affine_ras())
    assert volume.warnings == ("padding_clipped",)


@pytest.mark.parametrize("shape", [SHAPE, (3, 5, 7)])
def test_eight_bits(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    """Also with an odd number of pixels, which are padded to an even length."""
    stored = (stored_values(shape) % 251).astype(np.uint8)
    write_series(tmp_path, stored)
    assert_volume(read_one(tmp_path), stored.astype(int) - 1024, axial_affine_ras())


def test_thirty_two_bits(tmp_path: Path) -> None:
    """Values beyond int16 make the volume float32."""
    stored = stored_values().astype(np.uint32)
    stored[0, 0, 0] = 100_000
    write_series(tmp_path, stored)
    volume = read_one(tmp_path)
    assert volume.volume_hu.dtype == np.float32
    np.testing.assert_array_equal(volume.volume_hu, stored.astype(int) - 1024)


def test_sixteen_bits_above_int16(tmp_path: Path) -> None:
    """Metal at 65535: float32 rather than a wrapped int16, and a warning that models see 32767."""
    stored = stored_values()
    stored[5, 11, 15] = 65535
    write_series(tmp_path, stored)
    volume = read_one(tmp_path)
    assert volume.volume_hu.max() == 65535 - 1024
    assert volume.warnings == ("values_above_int16",)
    np.testing.assert_array_equal(volume.volume_hu, stored.astype(int) - 1024)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_uncompressed_syntaxes(tmp_path: Path, syntax: str) -> None:
    """Implicit, big endian and deflated give the same volume as explicit little endian."""
    series = write_series(tmp_path, TransferSyntaxUID=syntax)
    volume = read_one(tmp_path)
    assert_volume(volume, series.hu, axial_affine_ras())
    assert volume.warnings == ()


@pytest.mark.parametrize(
    "format_",
    [
        {"BitsStored": 12, "HighBit": 15},
        {"BitsAllocated": 12, "BitsStored": 12, "HighBit": 11},
        {"BitsAllocated": 64, "BitsStored": 64, "HighBit": 63},
        {"BitsStored": 17, "HighBit": 16},
        {"BitsStored": 0},
        {"Rows": 0},
        {"Columns": None},
        {"BitsAllocated": None, "BitsStored": None, "HighBit": None},
    ],
)
def test_formats_that_are_refused(tmp_path: Path, format_: dict[str, Any]) -> None:
    """Left-justified, packed, oversized and impossible pixels have a reason, and no volume."""
    write_series(tmp_path, **format_)
    assert set(reasons(tmp_path)) <= {"unsupported_pixel_format", "truncated_pixel_data"}


def test_no_sign_no_volume(tmp_path: Path) -> None:
    """Without PixelRepresentation nobody knows what 65000 means."""
    write_series(tmp_path, PixelRepresentation=None)
    assert reasons(tmp_path) == {"decode_failed": 6}


@pytest.mark.parametrize("excess", [2, 100])
def test_pixel_data_that_is_too_long_is_read(tmp_path: Path, excess: int) -> None:
    """The slice is its first bytes; more than padding is warned about."""

    def lengthen(dataset: FileDataset) -> None:
        dataset.PixelData += b"\x7f" * excess

    series = write_series(tmp_path, encode=lengthen)
    volume = read_one(tmp_path)
    assert_volume(volume, series.hu, axial_affine_ras())
    assert volume.warnings == ("excess_pixel_data",)


@pytest.mark.parametrize("missing", [2, 200])
def test_pixel_data_that_is_too_short_is_refused(tmp_path: Path, missing: int) -> None:
    """One pixel is enough, and the whole series has the reason."""

    def shorten(dataset: FileDataset) -> None:
        if dataset.InstanceNumber == 4:
            dataset.PixelData = dataset.PixelData[:-missing]

    write_series(tmp_path, encode=shorten)
    assert reasons(tmp_path) == {"truncated_pixel_data": 6}


def test_the_message_gives_both_values(tmp_path: Path) -> None:
    """Found and expected bytes."""

    def shorten(dataset: FileDataset) -> None:
        dataset.PixelData = dataset.PixelData[:100]

    write_series(tmp_path, encode=shorten)
    assert judge(tmp_path)[0].detail == "100 bytes of pixels, expected 384"


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("sign", [0, 1])
@pytest.mark.parametrize(("allocated", "bits"), [(8, 8), (8, 5), (16, 16), (16, 12), (16, 1), (32, 32), (32, 20)])
def test_native_pixels_are_what_pydicom_makes_of_them(
    tmp_path: Path, syntax: UID, sign: int, allocated: int, bits: int
) -> None:
    """Whatever stands in the bits that are not stored."""
    junk = np.random.default_rng(bits).integers(0, 256, (6, 4 * allocated // 8), dtype=np.uint8)
    dataset = ct_slice(np.zeros((6, 4), dtype=np.uint16), 0, TransferSyntaxUID=syntax)
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = allocated, bits, bits - 1
    dataset.PixelRepresentation, dataset.PixelData = sign, junk.tobytes()
    save(dataset, tmp_path / "a.dcm")
    with (tmp_path / "a.dcm").open("rb") as file, quiet_pydicom():
        elements = part10.read_whole(file, ReadingConfig())
        found = pixels._as_they_stand(elements, syntax, (6, 4))
        expected = pixels.decoded(elements.dataset, syntax, (6, 4))
    assert found is not None
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    "overrides",
    [
        {"SamplesPerPixel": 3},
        {"SamplesPerPixel": None},
        {"SamplesPerPixel": [1, 1]},
        {"PhotometricInterpretation": "RGB"},
        {"PhotometricInterpretation": None},
        {"BitsStored": 12, "HighBit": 15},
        {"PixelRepresentation": None},
        {"NumberOfFrames": "2"},
        {"NumberOfFrames": "1\\1"},
    ],
    ids=str,
)
def test_pixels_whose_header_is_not_in_order_are_left_to_pydicom(tmp_path: Path, overrides: dict[str, Any]) -> None:
    """Which knows what bytes they take."""
    save(ct_slice(stored_values()[0], 0, **overrides), tmp_path / "a.dcm")
    with (tmp_path / "a.dcm").open("rb") as file, quiet_pydicom():
        elements = part10.read_whole(file, ReadingConfig())
    assert pixels._as_they_stand(elements, ExplicitVRLittleEndian, stored_values()[0].shape) is None
