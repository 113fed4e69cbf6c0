"""Headers that are not as the standard has them are read as pydicom reads them, on a disk and in an object store."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import ct_slice, save, stored_values, write_series
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from vaeseg.config import ReadingConfig
from vaeseg.io import part10
from vaeseg.io.archive import read_file, scan_archive
from vaeseg.io.dicom import SubjectKeyer, quiet_pydicom
from vaeseg.io.headers import InstanceHeader
from vaeseg.io.listing import FoundFile
from vaeseg.paths import AnyPath
from vaeseg.remote import RemotePath

LONG_VRS = ("OB", "OW", "SQ", "UN")
UNDEFINED = 0xFFFFFFFF
PATIENT_ID, ROWS, SLOPE, PIXELS = 0x00100020, 0x00280010, 0x00281053, 0x7FE00010
ITEM_END = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
SEQUENCE_END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def element(tag: int, vr: str | None, value: bytes, length: int | None = None) -> bytes:
    """As it stands in a file; vr is None in implicit encodings."""
    length = len(value) if length is None else length
    named = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if vr is None or vr in LONG_VRS:
        return named + (f"{vr}\0\0".encode() if vr else b"") + struct.pack("<I", length) + value
    return named + vr.encode() + struct.pack("<H", length) + value


def item(content: bytes) -> bytes:
    """Of undefined length."""
    return struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED) + content + ITEM_END


def slice_bytes(path: Path, syntax: Any = ExplicitVRLittleEndian) -> bytes:
    save(ct_slice(stored_values()[0], 0, TransferSyntaxUID=syntax), path)
    return path.read_bytes()


def with_before(raw: bytes, tag: int, added: bytes) -> bytes:
    at = raw.index(struct.pack("<HH", tag >> 16, tag & 0xFFFF), 300)
    return raw[:at] + added + raw[at:]


INNER = element(0x00081150, "UI", b"1.2.3\0")
INNER_IMPLICIT = element(0x00081150, None, b"1.2.3\0")
TABLE = (
    element(0x00283002, "US", struct.pack("<HHH", 2, 0, 16))
    + element(0x00283004, "LO", b"HU")
    + element(0x00283006, "OW", b"\1\0\2\0")
)
ODD = {
    "nothing": (PATIENT_ID, b""),
    "explicit items in an unknown": (ROWS, element(0x00211001, "UN", item(INNER) + SEQUENCE_END, UNDEFINED)),
    "implicit items in an explicit sequence": (
        ROWS,
        element(0x00209222, "SQ", item(INNER_IMPLICIT) + SEQUENCE_END, UNDEFINED),
    ),
    "bytes without a length": (ROWS, element(0x00211001, "OB", SEQUENCE_END, UNDEFINED)),
    "an unknown representation": (ROWS, element(0x00211001, "ZZ", b"ab")),
    "a table without a length": (PIXELS, element(0x00283000, "SQ", item(TABLE) + SEQUENCE_END, UNDEFINED)),
    "a table of great length": (PIXELS, element(0x00283000, "SQ", bytes(20), 2**30)),
    "a sequence that is cut short": (PIXELS, element(0x00291001, "SQ", bytes(20), 400_000)),
    "a long value": (ROWS, element(0x00211001, "UN", bytes(70_000))),
    "a stray delimiter": (ROWS, ITEM_END),
    "a slope without a length": (PIXELS, element(SLOPE, "UN", item(INNER_IMPLICIT) + SEQUENCE_END, UNDEFINED)),
    "an implicit element": (PIXELS, element(0x00281054, None, b"HU")),
}


def header_of(root: AnyPath, raw: bytes) -> InstanceHeader | tuple[str, str]:
    (root / "a.dcm").write_bytes(raw)
    with quiet_pydicom():
        record = read_file(
            root, FoundFile(path="a.dcm", size=len(raw), mtime_ns=1), ReadingConfig(), SubjectKeyer(b"k" * 32)
        )
    return record.header or (str(record.reason), record.detail)


def fields(found: InstanceHeader | tuple[str, str]) -> Any:
    """What it says, whenever its file was written; of a refusal the reason."""
    return {**vars(found), "mtime_ns": 0} if isinstance(found, InstanceHeader) else found[0]


def as_pydicom(root: Path, raw: bytes) -> InstanceHeader | tuple[str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(part10, "_read_usual", lambda *_: None)
        return header_of(root, raw)


@pytest.mark.parametrize("what", ODD)
def test_odd_headers_are_read_as_pydicom_reads_them(tmp_path: Path, what: str) -> None:
    """Or left to it."""
    raw = with_before(slice_bytes(tmp_path / "whole"), *ODD[what])
    assert fields(header_of(tmp_path, raw)) == fields(as_pydicom(tmp_path, raw))


def test_a_stray_delimiter_ends_an_implicit_header(tmp_path: Path) -> None:
    """As it does for pydicom."""
    raw = with_before(slice_bytes(tmp_path / "whole", ImplicitVRLittleEndian), ROWS, ITEM_END)
    assert fields(header_of(tmp_path, raw)) == fields(as_pydicom(tmp_path, raw))


def test_a_value_is_not_passed_over_as_a_sequence(tmp_path: Path) -> None:
    """A slope that is none must not be read as one that is missing, which is 1."""
    raw = with_before(slice_bytes(tmp_path / "whole"), *ODD["a slope without a length"])
    assert part10._read_usual(io.BytesIO(raw), lambda tag, _vr, _n: tag == PIXELS, 64 * 1024) is None


def test_pixels_in_another_encoding_have_their_bytes(tmp_path: Path) -> None:
    """Their length stands where the representation is looked for."""
    whole = slice_bytes(tmp_path / "whole")
    begin = whole.index(b"\xe0\x7f\x10\x00")
    raw = whole[:begin] + element(PIXELS, None, whole[begin + 12 :])
    found = header_of(tmp_path, raw)
    assert isinstance(found, InstanceHeader)
    assert found.pixel_data_bytes == len(whole) - begin - 12


@pytest.mark.parametrize("what", ODD)
def test_an_object_store_gives_the_same_headers(tmp_path: Path, bucket: RemotePath, what: str) -> None:
    """pydicom asks a buffered file for its name, which an object has not; and nothing lies behind an object's end."""
    raw = with_before(slice_bytes(tmp_path / "whole"), *ODD[what])
    assert fields(header_of(bucket, raw)) == fields(header_of(tmp_path, raw))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_header_cut_anywhere_is_read_as_pydicom_reads_it(tmp_path: Path, syntax: Any) -> None:
    """Within the pixel data's own beginning too: a slice without pixels is no slice."""
    whole = slice_bytes(tmp_path / "whole", syntax)
    begin = whole.index(b"\xe0\x7f\x10\x00")
    for end in (*range(140, begin, 7), *range(begin - 12, begin + 16)):
        raw = whole[:end]
        assert fields(header_of(tmp_path, raw)) == fields(as_pydicom(tmp_path, raw)), end


def test_items_of_another_encoding_do_not_lead_into_the_pixels(tmp_path: Path) -> None:
    """Where every eight bytes would be an element, to the end of a large file."""
    dataset = ct_slice(np.zeros((2048, 2048), dtype=np.int16), 0, TransferSyntaxUID=ExplicitVRLittleEndian)
    save(dataset, tmp_path / "whole")
    raw = with_before((tmp_path / "whole").read_bytes(), *ODD["explicit items in an unknown"])
    file = Counting(raw)
    assert part10._read_usual(file, lambda tag, _vr, _n: tag == PIXELS, 64 * 1024) is None
    assert file.n_reads < 100


class Counting(io.BytesIO):
    """A file that counts how often it is read."""

    n_reads = 0

    def read(self, size: int | None = -1) -> bytes:
        self.n_reads += 1
        return super().read(size)


def test_a_slice_without_pixels_leaves_its_series(tmp_path: Path) -> None:
    """Cut within the head of its pixel data: the others are a volume with a warning."""
    write_series(tmp_path / "ct", TransferSyntaxUID=ExplicitVRLittleEndian)
    last = sorted((tmp_path / "ct").glob("*"))[-1]
    raw = last.read_bytes()
    last.write_bytes(raw[: raw.index(b"\xe0\x7f\x10\x00") + 10])
    scan = scan_archive(tmp_path, ReadingConfig())
    assert scan.file_count.refused_by_reason == {"unreadable_instance": 1}
    (readable,) = [verdict for verdict in scan.verdicts if verdict.readable]
    assert "instances_left_out" in readable.warnings
