from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from factories import ct_slice, save, stored_values
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from vaeseg.config import ReadingConfig
from vaeseg.io import part10
from vaeseg.io.dicom import quiet_pydicom
from vaeseg.io.elements import NO_VALUE, PARSE_ERRORS, Elements, integer, numbers, text, transfer_syntax, values

TEXT_VALUES = (
    *(b"", b" ", b"\0", b"CT", b" CT ", b"CT\0", b"CT\0\0", b"C\0T", b"A\\B", b"A\\\\B", b"A\\", b"\\", b" A \\ B "),
    *(b"A\\B\0", b"a~b", b"\xc4", b"\x1b$B", b"a\nb", b"1.2.840", b"1.2.840\0", b"O'Neil^{x}", b"A\\B  ", b"\\ \\"),
)
NUMBER_VALUES = (
    *(b"", b" ", b"\0", b"1", b" 1 ", b"1\0", b"1.5", b"-1.5e-3", b"1\\2\\3", b"1\\\\3", b"1\\2\\3 ", b"1 2"),
    *(b"nan", b"inf\\1\\1", b"1_0", b"+-1", b"1e400", b"99999999999999999999", b"1.0", b"\\", b"1,5", b"\xb2"),
    *(b"--", b"e", b"1e5", b"0x10", b"1\\2\\x"),
)
Read = Callable[[Elements, str], Any]


def outcome(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except PARSE_ERRORS as error:
        return type(error)


def one_element(keyword: str, vr: str | None, value: bytes, is_little_endian: bool = True) -> Elements:
    tag = Tag(keyword)
    element = RawDataElement(tag, vr, len(value), value, 0, vr is None, is_little_endian)
    return Elements.of(pydicom.Dataset({tag: element}))


def assert_as_pydicom(keyword: str, vr: str | None, value: bytes, read: Read, is_little_endian: bool = True) -> None:
    with quiet_pydicom(), pytest.MonkeyPatch.context() as patch:
        found = outcome(lambda: read(one_element(keyword, vr, value, is_little_endian), keyword))
        patch.setattr(Elements, "plain", lambda *_: NO_VALUE)
        assert found == outcome(lambda: read(one_element(keyword, vr, value, is_little_endian), keyword)), value


@pytest.mark.parametrize("vr", [None, "LO", "CS", "UI", "SH", "UN", "DS"])
@pytest.mark.parametrize("value", TEXT_VALUES)
def test_text_is_what_pydicom_makes_of_it(value: bytes, vr: str | None) -> None:
    """Whether it is taken from the bytes or not."""
    for keyword in ("Modality", "PatientID", "SeriesInstanceUID", "SeriesDate"):
        assert_as_pydicom(keyword, vr, value, text)
    assert_as_pydicom("ImageType", vr, value, lambda found, keyword: list(map(str, values(found, keyword))))


@pytest.mark.parametrize("vr", [None, "DS", "IS", "LO", "UN"])
@pytest.mark.parametrize("value", NUMBER_VALUES)
def test_numbers_are_what_pydicom_makes_of_them(value: bytes, vr: str | None) -> None:
    """Three of them, or one, or none."""
    for keyword in ("ImagePositionPatient", "RescaleSlope", "AcquisitionNumber"):
        for count in (1, 3):
            assert_as_pydicom(keyword, vr, value, lambda found, name, count=count: numbers(found, name, count))
    assert_as_pydicom("NumberOfFrames", vr, value, lambda found, name: integer(found, name, -7))


@pytest.mark.parametrize("vr", ["DS", "IS", "LO", "UN"])
@pytest.mark.parametrize("value", [b"1_0", b"6_0.0", b"1\\2\\3_0"])
def test_digits_in_groups_are_no_number(value: bytes, vr: str) -> None:
    """Python reads 6_0.0 as 60, which DICOM does not know: no millimetres are made of it."""
    with quiet_pydicom():
        assert numbers(one_element("PixelSpacing", vr, value), "PixelSpacing", value.count(b"\\") + 1) is None


@pytest.mark.parametrize("value", [b"", b"\1", b"\1\2", b"\1\2\3", b"\1\2\3\4"])
@pytest.mark.parametrize("is_little_endian", [True, False])
def test_binary_numbers_are_what_pydicom_makes_of_them(value: bytes, is_little_endian: bool) -> None:
    """In either byte order, of a length that fits or not."""
    for vr in ("US", "UL", None):
        assert_as_pydicom("Rows", vr, value, lambda found, name: integer(found, name, -7), is_little_endian)


@pytest.mark.parametrize("seed", range(4))
def test_random_values_are_what_pydicom_makes_of_them(seed: int) -> None:
    """Strings of the characters that matter."""
    source = random.Random(seed)
    for _ in range(300):
        value = bytes(source.choice(b"01.-+eE \\\0A~_\xe9") for _ in range(source.randrange(1, 9)))
        for keyword in ("PatientID", "ImageType", "SeriesInstanceUID"):
            assert_as_pydicom(keyword, None, value, text)
        for keyword in ("PixelSpacing", "AcquisitionNumber"):
            assert_as_pydicom(keyword, None, value, lambda found, name: numbers(found, name, 2))
            assert_as_pydicom(keyword, None, value, lambda found, name: integer(found, name, None))


def damaged(raw: bytes, source: random.Random) -> bytes:
    flipped = bytearray(raw)
    for _ in range(source.randrange(1, 4)):
        flipped[source.randrange(128, len(raw))] = source.randrange(256)
    return bytes(flipped[: source.choice([len(raw), source.randrange(132, len(raw))])])


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_the_short_way_reads_what_pydicom_reads(
    tmp_path: Path, syntax: pydicom.uid.UID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Element by element, of a whole file and of damaged ones, or it leaves them to pydicom."""
    nested = pydicom.Dataset()
    nested.ReferencedSOPInstanceUID = "1.2.3"
    inner = pydicom.Sequence([nested])
    inner.is_undefined_length = True
    dataset = ct_slice(
        stored_values()[0],
        0,
        TransferSyntaxUID=syntax,
        SpecificCharacterSet="ISO_IR 192",
        SeriesDescription="Lunge, kräftig",
    )
    dataset.ReferencedImageSequence = inner
    dataset["ReferencedImageSequence"].is_undefined_length = True
    save(dataset, tmp_path / "a.dcm")
    whole, source = (tmp_path / "a.dcm").read_bytes(), random.Random(str(syntax))
    without_vr = whole[:136] + b"ZZ" + whole[138:]
    short_ways: list[bool] = []
    short_way = part10._read_usual

    def noted(*arguments: Any) -> Any:
        found = short_way(*arguments)
        short_ways.append(found is not None)
        return found

    with quiet_pydicom():
        for raw in (whole, without_vr, *(damaged(whole, source) for _ in range(300))):
            monkeypatch.setattr(part10, "_read_usual", noted)
            found = outcome(lambda raw=raw: read_all(raw))
            monkeypatch.setattr(part10, "_read_usual", lambda *_: None)
            assert found == outcome(lambda raw=raw: read_all(raw))
    assert short_ways[0]
    assert 100 < sum(short_ways) < 300


@pytest.mark.parametrize("before", [b"\x08\x00\x16\x00UI", b"\x10\x00\x20\x00LO"], ids=["first", "later"])
@pytest.mark.parametrize("group", [0x0000, 0x0002])
def test_an_element_of_another_place_is_no_file_meta(tmp_path: Path, group: int, before: bytes) -> None:
    """A data set that names a transfer syntax of its own, or holds a command: read as pydicom reads it."""
    save(ct_slice(stored_values()[0], 0, TransferSyntaxUID=ExplicitVRLittleEndian), tmp_path / "a.dcm")
    whole = (tmp_path / "a.dcm").read_bytes()
    stray = group.to_bytes(2, "little") + b"\x10\x00UI\x06\x001.2.3\0"
    at = whole.index(before, 132)
    raw = whole[:at] + stray + whole[at:]
    with quiet_pydicom():
        elements = part10.read_elements(io.BytesIO(raw), lambda tag, _vr, _n: tag >> 16 == 0x7FE0, ReadingConfig())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(part10, "_read_usual", lambda *_: None)
            expected = part10.read_elements(
                io.BytesIO(raw), lambda tag, _vr, _n: tag >> 16 == 0x7FE0, ReadingConfig()
            ).dataset
        assert transfer_syntax(elements) == expected.file_meta.get("TransferSyntaxUID")
        assert elements.dataset == expected


def read_all(raw: bytes) -> Any:
    """Everything that a header holds, and where its reading ends."""
    file = io.BytesIO(raw)
    dataset = part10.read_elements(file, lambda tag, _vr, _n: tag >> 16 == 0x7FE0, ReadingConfig()).dataset
    elements = [
        (element.tag, element.VR, str(element.value)) for part in (dataset.file_meta, dataset) for element in part
    ]
    return elements, dataset.original_encoding, file.tell()


@pytest.mark.parametrize("keyword", ["PatientID", "SeriesDescription"])
def test_an_element_that_is_not_loaded_is_read_when_it_is_asked_for(tmp_path: Path, keyword: str) -> None:
    """It is longer than headers are; pydicom goes back to the file for it."""
    save(
        ct_slice(stored_values()[0], 0, TransferSyntaxUID=ImplicitVRLittleEndian, **{keyword: "x" * 70_000}),
        tmp_path / "a",
    )
    with quiet_pydicom(), (tmp_path / "a").open("rb") as file:
        elements = part10.read_elements(file, lambda tag, _vr, _n: tag >> 16 == 0x7FE0, ReadingConfig())
        assert text(elements, keyword) == "x" * 70_000


def test_file_meta_that_lacks_an_element_does_not_borrow_it() -> None:
    """From a data set that holds one of the same group."""
    dataset = pydicom.Dataset()
    tag = Tag("TransferSyntaxUID")
    dataset[tag] = RawDataElement(tag, "UI", 6, b"1.2.3\0", 0, False, True)
    assert text(Elements.of(dataset), "TransferSyntaxUID") == "1.2.3"
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    assert text(Elements.of(dataset), "TransferSyntaxUID") == ""
