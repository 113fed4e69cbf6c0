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


def damaged(raw: bytes, source: random.Random, spared: range = range(0)) -> bytes:
    places = [place for place in range(128, len(raw)) if place not in spared]
    flipped = bytearray(raw)
    for _ in range(source.randrange(1, 4)):
        flipped[source.choice(places)] = source.randrange(256)
    return bytes(flipped[: source.choice([len(raw), source.randrange(132, len(raw))])])


SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


def with_sequence(path: Path, syntax: pydicom.uid.UID, has_lengths: bool = False) -> bytes:
    """A slice whose header holds a sequence of two items, in one of which there is another sequence."""
    inner, outer, plain = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    inner.CodeMeaning = "Lunge"
    outer.PurposeOfReferenceCodeSequence = [inner]
    outer["PurposeOfReferenceCodeSequence"].is_undefined_length = not has_lengths
    outer.ReferencedSOPInstanceUID = plain.ReferencedSOPInstanceUID = "1.2.3"
    outer.is_undefined_length_sequence_item = not has_lengths
    dataset = ct_slice(
        stored_values()[0],
        0,
        TransferSyntaxUID=syntax,
        SpecificCharacterSet="ISO_IR 192",
        SeriesDescription="Lunge, kräftig",
    )
    dataset.ReferencedImageSequence = [outer, plain]
    dataset["ReferencedImageSequence"].is_undefined_length = not has_lengths
    save(dataset, path)
    return path.read_bytes()


def place_of_sequence(raw: bytes) -> range:
    """From its tag to behind the delimiter of the outer one."""
    return range(raw.index(b"\x08\x00\x40\x11"), raw.rindex(b"\xfe\xff\xdd\xe0") + 8)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_short_way_reads_what_pydicom_reads(
    tmp_path: Path, syntax: pydicom.uid.UID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Element by element, of a whole file and of damaged ones, or it leaves them to pydicom."""
    whole, source = with_sequence(tmp_path / "a.dcm", syntax), random.Random(str(syntax))
    without_vr = whole[:136] + b"ZZ" + whole[138:]
    has_lengths = with_sequence(tmp_path / "b.dcm", syntax, has_lengths=True)
    short_ways: list[bool] = []
    short_way = part10._read_usual

    def noted(*arguments: Any) -> Any:
        found = short_way(*arguments)
        short_ways.append(found is not None)
        return found

    spared = place_of_sequence(whole)
    with quiet_pydicom():
        for raw in (whole, has_lengths, without_vr, *(damaged(whole, source, spared) for _ in range(300))):
            monkeypatch.setattr(part10, "_read_usual", noted)
            found = outcome(lambda raw=raw: read_all(raw))
            monkeypatch.setattr(part10, "_read_usual", lambda *_: None)
            assert found == outcome(lambda raw=raw: read_all(raw))
    assert short_ways[:3] == [True, True, False]
    assert 100 < sum(short_ways) < 300


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_damage_within_a_sequence_moves_no_element(tmp_path: Path, syntax: pydicom.uid.UID) -> None:
    """What stands around it is read as it stands, or pydicom is asked about the file."""
    whole, source = with_sequence(tmp_path / "a.dcm", syntax), random.Random(str(syntax))
    inside = place_of_sequence(whole)[8 if syntax == ImplicitVRLittleEndian else 12 :]
    short_way: list[Elements | None] = []
    for _ in range(300):
        raw = bytearray(whole)
        raw[source.choice(inside)] ^= 1 << source.randrange(8)
        file = io.BytesIO(raw)
        short_way.append(part10._read_usual(file, is_of_pixels, 64 * 1024))
        if short_way[-1] is not None:
            assert file.tell() == whole.index(b"\xe0\x7f\x10\x00")
            assert text(short_way[-1], "RescaleIntercept") == "-1024"
    assert 50 < sum(found is not None for found in short_way) < 300


@pytest.mark.parametrize("levels", [15, 40])
def test_sequences_that_are_deeply_nested_are_left_to_pydicom(tmp_path: Path, levels: int) -> None:
    """Ours follows some."""
    item, end = b"\xfe\xff\x00\xe0\xff\xff\xff\xff", b"\xfe\xff\x0d\xe0" + bytes(4) + b"\xfe\xff\xdd\xe0" + bytes(4)
    sequence = b"\x08\x00\x40\x11SQ" + bytes(2) + b"\xff\xff\xff\xff" + item
    save(ct_slice(stored_values()[0], 0, TransferSyntaxUID=ExplicitVRLittleEndian), tmp_path / "a.dcm")
    whole = (tmp_path / "a.dcm").read_bytes()
    at = whole.index(b"\x10\x00\x20\x00LO")
    file = io.BytesIO(whole[:at] + sequence * levels + end * levels + whole[at:])
    assert (part10._read_usual(file, is_of_pixels, 64 * 1024) is not None) == (levels < 20)
    with quiet_pydicom():
        elements = part10.read_elements(file, is_of_pixels, ReadingConfig())
    assert text(elements, "RescaleIntercept") == "-1024"


def test_a_sequence_of_unknown_representation_is_passed_over(tmp_path: Path) -> None:
    """Its items are implicit little endian (PS3.5 6.2.2), whatever the data set is."""
    item = pydicom.Dataset()
    item.CodeMeaning = "Lunge"
    content = io.BytesIO()
    with pydicom.filebase.DicomIO(content) as buffer:
        buffer.is_implicit_VR, buffer.is_little_endian = True, True
        pydicom.filewriter.write_dataset(buffer, item)
        written = content.getvalue()
    marks = b"\xfe\xff\x00\xe0\xff\xff\xff\xff", b"\xfe\xff\x0d\xe0" + bytes(4) + b"\xfe\xff\xdd\xe0" + bytes(4)
    private = b"\x09\x00\x01\x10UN" + bytes(2) + b"\xff\xff\xff\xff" + marks[0] + written + marks[1]
    save(ct_slice(stored_values()[0], 0, TransferSyntaxUID=ExplicitVRLittleEndian), tmp_path / "a.dcm")
    whole = (tmp_path / "a.dcm").read_bytes()
    at = whole.index(b"\x10\x00\x20\x00LO")
    found = part10._read_usual(io.BytesIO(whole[:at] + private + whole[at:]), is_of_pixels, 64 * 1024)
    assert found is not None
    assert text(found, "RescaleIntercept") == "-1024"


@pytest.mark.parametrize("has_length", [True, False])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_table_of_values_is_read(tmp_path: Path, syntax: pydicom.uid.UID, has_length: bool) -> None:
    """The one sequence that says what stored values mean."""
    table = pydicom.Dataset()
    table.LUTDescriptor, table.ModalityLUTType, table.LUTData = [2, 0, 16], "HU", b"\1\0\2\0"
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "OW"
    table.is_undefined_length_sequence_item = not has_length
    dataset = ct_slice(stored_values()[0], 0, TransferSyntaxUID=syntax)
    dataset.ModalityLUTSequence = [table]
    dataset["ModalityLUTSequence"].is_undefined_length = not has_length
    save(dataset, tmp_path / "a.dcm")
    with quiet_pydicom(), (tmp_path / "a.dcm").open("rb") as file:
        elements = part10.read_elements(file, is_of_pixels, ReadingConfig())
        (found,) = elements.converted("ModalityLUTSequence")
    assert (found.ModalityLUTType, found.LUTData) == ("HU", b"\1\0\2\0")


def is_of_pixels(tag: int, _vr: str | None, _length: int) -> bool:
    return tag >> 16 == 0x7FE0


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
        elements = part10.read_elements(io.BytesIO(raw), is_of_pixels, ReadingConfig())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(part10, "_read_usual", lambda *_: None)
            expected = part10.read_elements(io.BytesIO(raw), is_of_pixels, ReadingConfig()).dataset
        assert transfer_syntax(elements) == expected.file_meta.get("TransferSyntaxUID")
        assert elements.dataset == expected


def read_all(raw: bytes) -> Any:
    """Everything that a header holds but what is within sequences, and where its reading ends."""
    file = io.BytesIO(raw)
    dataset = part10.read_elements(file, is_of_pixels, ReadingConfig()).dataset
    elements = [
        (element.tag, element.VR, "" if element.VR == "SQ" else str(element.value))
        for part in (dataset.file_meta, dataset)
        for element in part
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
        assert part10._read_usual(file, is_of_pixels, 64 * 1024) is None
        elements = part10.read_elements(file, is_of_pixels, ReadingConfig())
        assert text(elements, keyword) == "x" * 70_000


def test_file_meta_that_lacks_an_element_does_not_borrow_it() -> None:
    """From a data set that holds one of the same group."""
    dataset = pydicom.Dataset()
    tag = Tag("TransferSyntaxUID")
    dataset[tag] = RawDataElement(tag, "UI", 6, b"1.2.3\0", 0, False, True)
    assert text(Elements.of(dataset), "TransferSyntaxUID") == "1.2.3"
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    assert text(Elements.of(dataset), "TransferSyntaxUID") == ""
