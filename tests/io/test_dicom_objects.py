"""Headers that are odd, damaged or of other objects: each instance is in a volume or has its own reason."""

from __future__ import annotations

import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from factories import CANARIES, SERIES_UID, axial_affine_ras, ct_slice, save, stored_values, write_series
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, EnhancedCTImageStorage
from reading import CONFIG, assert_volume, judge, read_one, reasons

from vaeseg.io.archive import scan_archive
from vaeseg.io.dicom import SubjectKeyer

OTHER_OBJECTS = [
    ("MR", "1.2.840.10008.5.1.4.1.1.4", "wrong_modality"),
    ("PT", "1.2.840.10008.5.1.4.1.1.128", "wrong_modality"),
    ("NM", "1.2.840.10008.5.1.4.1.1.20", "wrong_modality"),
    ("RTDOSE", "1.2.840.10008.5.1.4.1.1.481.2", "wrong_modality"),
    ("SEG", "1.2.840.10008.5.1.4.1.1.66.4", "wrong_modality"),
    ("RTSTRUCT", "1.2.840.10008.5.1.4.1.1.481.3", "not_an_image"),
    ("SR", "1.2.840.10008.5.1.4.1.1.88.67", "not_an_image"),
    ("CT", "1.2.840.10008.5.1.4.1.1.7", "secondary_capture"),
    ("OT", "1.2.840.10008.5.1.4.1.1.7.2", "secondary_capture"),
    ("CT", "1.2.840.10008.5.1.4.1.1.4", "wrong_modality"),
    ("MR", "1.2.840.10008.5.1.4.1.1.2", "wrong_modality"),
    ("CT", str(EnhancedCTImageStorage), "enhanced_multiframe_unsupported"),
    ("SM", "1.2.840.10008.5.1.4.1.1.77.1.6", "wrong_modality"),
]


@pytest.mark.parametrize(("modality", "sop_class", "reason"), OTHER_OBJECTS)
def test_other_objects_leave_the_series_alone(tmp_path: Path, modality: str, sop_class: str, reason: str) -> None:
    """In the same folder; the volume beside them is not warned about."""
    series = write_series(tmp_path)
    other = ct_slice(stored_values()[0], 0, Modality=modality, SOPClassUID=sop_class, SeriesInstanceUID="1.2.3")
    save(other, tmp_path / "other")
    assert reasons(tmp_path) == {"readable": 6, reason: 1}
    volume = read_one(tmp_path)
    assert_volume(volume, series.hu, axial_affine_ras())
    assert volume.warnings == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"ImageType": ["derived", "secondary", "localizer"]}, "localizer"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "secondary_capture"),
        ({"NumberOfFrames": 6}, "enhanced_multiframe_unsupported"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "unsupported_pixel_format"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "unsupported_pixel_format"),
    ],
)
def test_images_that_are_no_slices(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    """Localizers, screens, multi-frame, colour: counted, and the other slices judged without them."""
    write_series(tmp_path)
    save(ct_slice(stored_values()[0], 0, SOPInstanceUID="1.2.3", **changes), tmp_path / "other")
    assert reasons(tmp_path) == {"readable": 6, reason: 1}


@pytest.mark.parametrize(("modality", "sop_class", "reason"), OTHER_OBJECTS)
def test_other_objects_under_the_same_series_uid(tmp_path: Path, modality: str, sop_class: str, reason: str) -> None:
    """They are left out too; an image of another modality there is a sign of damage, and warned about."""
    series = write_series(tmp_path)
    other = ct_slice(stored_values()[0], 0, Modality=modality, SOPClassUID=sop_class, SOPInstanceUID="1.2.3")
    save(other, tmp_path / "other")
    assert reasons(tmp_path) == {"readable": 6, reason: 1}
    volume = read_one(tmp_path)
    assert_volume(volume, series.hu, axial_affine_ras())
    assert volume.warnings == (("instances_left_out",) if reason == "wrong_modality" else ())


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
@pytest.mark.parametrize("value", [None, ["1"], "", "rubbish"])
def test_missing_geometry(tmp_path: Path, keyword: str, value: object) -> None:
    """Absent, empty, too few numbers or none: no place in the patient."""
    write_series(tmp_path, encode=lambda dataset: put_text(dataset, keyword, value))
    assert reasons(tmp_path) == {"missing_geometry": 6}


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e999", "1,5", "12.5.3", "0x10", "--1", "\u00e4"])
@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "PixelSpacing"])
def test_decimal_strings_that_are_no_numbers(tmp_path: Path, keyword: str, number: str) -> None:
    """NaN and infinity included: nothing is computed from them."""
    values = [number, "1", "1"] if keyword == "ImagePositionPatient" else [number, "1"]
    write_series(tmp_path, encode=lambda dataset: put_text(dataset, keyword, values))
    assert reasons(tmp_path) == {"missing_geometry": 6}


@pytest.mark.parametrize(
    ("keyword", "values"),
    [
        ("PixelSpacing", ["0", "0"]),
        ("PixelSpacing", ["-0.5", "0.5"]),
        ("PixelSpacing", ["1e-30", "0.5"]),
        ("PixelSpacing", ["1e300", "1e300"]),
        ("ImagePositionPatient", ["1e308", "1e308", "1e308"]),
        ("ImageOrientationPatient", ["1e200", "0", "0", "0", "1e200", "0"]),
        ("ImageOrientationPatient", ["0"] * 6),
        ("ImageOrientationPatient", ["1", "0", "0", "1", "0", "0"]),
    ],
)
def test_impossible_geometry(tmp_path: Path, keyword: str, values: list[str]) -> None:
    """Zero, negative, absurd and degenerate numbers, without a floating point warning."""
    write_series(tmp_path, encode=lambda dataset: put_text(dataset, keyword, values))
    assert reasons(tmp_path) == {"invalid_geometry": 6}


def put_text(dataset: FileDataset, keyword: str, value: object) -> None:
    """Write a decimal string element whatever it holds."""
    tag = dataset[keyword].tag
    del dataset[keyword]
    if value is not None:
        dataset.add_new(tag, "LO", value)


def test_one_slice_without_position_is_left_out_with_a_warning(tmp_path: Path) -> None:
    """At the end of the stack no gap shows it."""
    series = write_series(tmp_path, per_slice={5: {"ImagePositionPatient": None}})
    assert reasons(tmp_path) == {"readable": 5, "missing_geometry": 1}
    volume = read_one(tmp_path)
    assert_volume(volume, series.hu[:5], axial_affine_ras())
    assert volume.warnings == ("instances_left_out",)


def test_a_ct_without_pixels(tmp_path: Path) -> None:
    """Headers alone are no volume; without a position either, they are still called what they are: cut short."""
    write_series(tmp_path / "a", PixelData=None)
    write_series(tmp_path / "b", PixelData=None, ImagePositionPatient=None)
    assert reasons(tmp_path / "a") == reasons(tmp_path / "b") == {"missing_pixel_data": 6}


def test_a_ct_without_modality_is_known_by_its_class(tmp_path: Path) -> None:
    """CT Image Storage says it."""
    series = write_series(tmp_path, Modality=None)
    (judged,) = judge(tmp_path)
    assert judged.verdict.modality == "CT"
    assert judged.volume is not None
    assert_volume(judged.volume, series.hu, axial_affine_ras())


def test_no_preamble_and_no_file_meta(tmp_path: Path) -> None:
    """A bare data set, as some archives write it, with a warning."""
    series = write_series(tmp_path, TransferSyntaxUID="1.2.840.10008.1.2")
    for path in series.paths:
        dataset = pydicom.dcmread(path)
        with path.open("wb") as file:
            pydicom.filewriter.write_dataset(_implicit(file), dataset)
        assert path.read_bytes()[:2] == b"\x08\x00"
    volume = read_one(tmp_path)
    assert_volume(volume, series.hu, axial_affine_ras())
    assert volume.warnings == ("no_preamble",)


def test_file_meta_that_names_another_encoding(tmp_path: Path) -> None:
    """Explicit VR in the file meta, implicit in the data set: every pixel is there, to the last byte of the file."""
    series = write_series(tmp_path)
    for path in series.paths:
        dataset = pydicom.dcmread(path)
        with path.open("wb") as file:
            file.write(b"\0" * 128 + b"DICM")
            pydicom.filewriter.write_file_meta_info(file, dataset.file_meta)
            pydicom.filewriter.write_dataset(_implicit(file), dataset)
    assert_volume(read_one(tmp_path), series.hu, axial_affine_ras())


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"])
@pytest.mark.parametrize("tail", [b"\xff" * 64, b"\0" * 509, b"\xff" * 3, b"rubbish after the last element"])
def test_bytes_after_the_pixels_are_not_looked_at(tmp_path: Path, syntax: str, tail: bytes) -> None:
    """Whatever they are, all pixels are there."""
    series = write_series(tmp_path, TransferSyntaxUID=syntax)
    for path in series.paths:
        path.write_bytes(path.read_bytes() + tail)
    assert_volume(read_one(tmp_path), series.hu, axial_affine_ras())


def _implicit(file: Any) -> Any:
    stream = pydicom.filebase.DicomIO(file)
    stream.is_implicit_VR, stream.is_little_endian = True, True
    return stream


def test_a_missing_transfer_syntax_is_found_by_reading(tmp_path: Path) -> None:
    """File meta without TransferSyntaxUID: the encoding is seen, uncompressed pixels are read."""
    series = write_series(tmp_path)
    for path in series.paths:
        raw = path.read_bytes()
        at = raw.index(b"\x02\x00\x10\x00UI")
        end = at + 8 + int.from_bytes(raw[at + 6 : at + 8], "little")
        path.write_bytes(raw[:at] + raw[end:])
        assert "TransferSyntaxUID" not in pydicom.dcmread(path).file_meta
    assert_volume(read_one(tmp_path), series.hu, axial_affine_ras())


def test_compressed_pixels_without_a_transfer_syntax_are_refused(tmp_path: Path) -> None:
    """Which codec cannot be known."""
    series = write_series(tmp_path, encode=lambda dataset: dataset.compress("1.2.840.10008.1.2.5"))
    for path in series.paths:
        raw = path.read_bytes()
        at = raw.index(b"\x02\x00\x10\x00UI")
        end = at + 8 + int.from_bytes(raw[at + 6 : at + 8], "little")
        path.write_bytes(raw[:at] + raw[end:])
    assert reasons(tmp_path) == {"decode_failed": 6}


def test_an_icon_with_pixels_of_its_own(tmp_path: Path) -> None:
    """IconImageSequence holds a nested PixelData before the real one."""
    icon = Dataset()
    icon.Rows, icon.Columns, icon.BitsAllocated = 4, 4, 8
    icon.add_new(0x7FE00010, "OB", b"\xee" * 16)
    series = write_series(tmp_path, IconImageSequence=Sequence([icon]))
    assert_volume(read_one(tmp_path), series.hu, axial_affine_ras())


def test_large_private_elements_before_the_pixels(tmp_path: Path) -> None:
    """200 KB of vendor data, public and nested, are passed over."""

    def add_private(dataset: FileDataset) -> None:
        block = dataset.private_block(0x0029, "VENDOR", create=True)
        block.add_new(1, "OB", b"\x5a" * 200_000)
        item = Dataset()
        item.add_new(0x00290010, "LO", "VENDOR")
        item.add_new(0x00291001, "OB", b"\xe0\x7f\x10\x00" * 20_000)
        dataset.RequestAttributesSequence = Sequence([item])

    series = write_series(tmp_path, encode=add_private)
    assert_volume(read_one(tmp_path), series.hu, axial_affine_ras())


@pytest.mark.parametrize("charset", ["ISO_IR 192", "ISO 2022 IR 87", "GB18030", "NONSENSE", "\\ISO 2022 IR 149", ""])
def test_character_sets(tmp_path: Path, charset: str) -> None:
    """Also ones that do not exist; the volume does not depend on names."""
    series = write_series(tmp_path, PatientName="J\u00e4ne", SpecificCharacterSet="ISO_IR 100      ")
    for path in series.paths:
        path.write_bytes(path.read_bytes().replace(b"ISO_IR 100      ", charset.encode().ljust(16)))
    assert_volume(read_one(tmp_path), series.hu, axial_affine_ras())


def test_a_dicomdir_is_counted(tmp_path: Path) -> None:
    """It lists files that are found anyway."""
    write_series(tmp_path / "IMAGES", names=[f"IM{k}" for k in range(6)])
    listing = ct_slice(stored_values()[0], 0, MediaStorageSOPClassUID="1.2.840.10008.1.3.10")
    save(listing, tmp_path / "DICOMDIR")
    assert reasons(tmp_path) == {"readable": 6, "dicomdir": 1}


def without_preamble(start: bytes) -> bytes:
    return start[132:]


def without_vr(start: bytes) -> bytes:
    """File meta that consists of the transfer syntax, as implicit VR has it."""
    uid = b"1.2.840.10008.1.2.1.99"
    return start[:132] + bytes.fromhex("02001000") + len(uid).to_bytes(4, "little") + uid


@pytest.mark.parametrize("disguised", [bytes, without_preamble, without_vr])
@pytest.mark.parametrize("padding", [0, 100_000])
def test_a_deflate_bomb_is_refused(tmp_path: Path, padding: int, disguised: Callable[[bytes], bytes]) -> None:
    """70 MB of zeros in 70 KB: refused before they are in memory, however long the file meta is or is written."""
    plain = ct_slice(stored_values()[0], 0, TransferSyntaxUID=DeflatedExplicitVRLittleEndian)
    plain.file_meta.FileMetaInformationGroupLength = 0
    plain.file_meta.PrivateInformationCreatorUID = "1.2.3"
    plain.file_meta.PrivateInformation = b"\0" * padding
    save(plain, tmp_path / "bomb")
    raw = (tmp_path / "bomb").read_bytes()
    meta_end = 132 + 12 + int.from_bytes(raw[140:144], "little")
    bomb = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    start = disguised(raw[:meta_end])
    (tmp_path / "bomb").write_bytes(start + bomb.compress(bytes(70 * 2**20)) + bomb.flush())
    tracemalloc.start()
    assert reasons(tmp_path) == {"too_large": 1}
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * 2**20


def test_subject_keys_are_pseudonyms(tmp_path: Path) -> None:
    """The same patient has the same key under the same secret, and no key holds what it was made of."""
    write_series(tmp_path)
    keys = [
        scan_archive(tmp_path, CONFIG, SubjectKeyer(secret)).verdicts[0].ref.subject_key  # type: ignore[union-attr]
        for secret in (b"one", b"one", b"two")
    ]
    assert keys[0] == keys[1] != keys[2]
    assert keys[0] is not None
    assert CANARIES["PatientID"] not in keys[0]


def test_no_header_value_gets_into_a_message(tmp_path: Path) -> None:
    """Names that landed in code, UID or number elements are not quoted."""
    canary = "Canaryname^Jane"
    for keyword in ("Modality", "SOPClassUID", "SeriesInstanceUID", "TransferSyntaxUID", "RescaleSlope"):
        write_series(tmp_path / keyword, encode=lambda dataset, keyword=keyword: plant(dataset, keyword, canary))  # type: ignore[misc]
    for judged in judge(tmp_path):
        shown = f"{judged.reason} {judged.detail} {judged.verdict.modality} {judged.verdict.ref}"
        assert "canary" not in shown.lower()


def plant(dataset: FileDataset, keyword: str, canary: str) -> None:
    if keyword == "TransferSyntaxUID":
        dataset.PatientComments = canary
        return
    put_text(dataset, keyword, canary)


def test_the_series_uid_is_the_key(tmp_path: Path) -> None:
    """A readable series keeps its own UIDs."""
    write_series(tmp_path)
    (judged,) = judge(tmp_path)
    assert judged.verdict.series_key == SERIES_UID
    assert judged.verdict.ref is not None
    assert judged.verdict.ref.series_instance_uid == SERIES_UID
