"""Elements of a little endian data set as the bytes that stand in the file (PS3.5 chapter 7).

pydicom makes an object of every element, and a data set of every item of a sequence: 0.30 ms for 61 elements and two
sequences, and 0.04 ms here. Only what is in order is taken; the rest is left to pydicom. Sequences are passed over,
those of undefined length item by item to where they end.
"""

from __future__ import annotations

from collections.abc import Callable
from io import SEEK_CUR
from struct import Struct
from typing import BinaryIO

from pydicom.datadict import tag_for_keyword
from pydicom.filereader import ENCODED_VR
from pydicom.fileutil import read_undefined_length_value
from pydicom.tag import SequenceDelimiterTag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

RawValue = tuple[str | None, bytes]
"""Value representation, None where the encoding leaves it out, and bytes."""
StopWhen = Callable[[int, str | None, int], bool]
"""Of an element's tag, value representation and length: whether reading ends before it."""

PIXEL_DATA_TAG = 0x7FE00010
UNDEFINED_LENGTH = 0xFFFFFFFF
MODALITY_TABLE = tag_for_keyword("ModalityLUTSequence")
"""The one sequence that is read."""
NESTED_AT_MOST = 16
"""Sequences within sequences."""

_VRS = {vr: vr.decode() for vr in ENCODED_VR}
_LONG_VRS = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_32)
"""Two bytes follow, and four of length."""
_EXPLICIT, _IMPLICIT = Struct("<HH2sH").unpack, Struct("<HHL").unpack
_ITEM, _ITEM_END, _SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0"
_NOTHING = bytes(4)
"""The length of a delimiter."""


def read_raw_elements(file: BinaryIO, is_implicit: bool, stop_when: StopWhen) -> dict[int, RawValue] | None:
    """Elements from where a file stands to its end, or to where `stop_when` says so; None where all is not in order.

    Args:
        file: left before the element at which reading stopped.
        is_implicit: whether the encoding leaves value representations out.
        stop_when: asked before each element.

    Returns:
        By tag; a sequence that was passed over has no bytes.
    """
    start = file.read(6)
    file.seek(-len(start), SEEK_CUR)
    names_vr = start[4:].isalpha() and start[4:].isupper()
    if len(start) < 6 or names_vr == is_implicit:
        return None
    return _read(file, is_implicit, stop_when)


def _read(file: BinaryIO, is_implicit: bool, stop_when: StopWhen) -> dict[int, RawValue] | None:
    elements: dict[int, RawValue] = {}
    read = file.read
    while len(head := read(8)) == 8:
        vr: str | None = None
        if is_implicit:
            group, number, length = _IMPLICIT(head)
        else:
            group, number, code, length = _EXPLICIT(head)
            vr = _VRS.get(code)
            if code in _LONG_VRS:
                head += read(4)
                length = int.from_bytes(head[8:], "little")
        tag = group << 16 | number
        if stop_when(tag, vr, length):
            file.seek(-len(head), SEEK_CUR)
            return elements
        if length == UNDEFINED_LENGTH:
            value = _value_to_delimiter(file, tag, vr)
            if value is None:
                return None
        elif vr == "SQ" and tag != MODALITY_TABLE:
            file.seek(length, SEEK_CUR)  # perhaps behind the file's end, where nothing more is read
            value = b""
        else:
            value = read(length)
            if len(value) < length or not (vr or is_implicit):
                return None
        elements[tag] = vr, value
    return elements


def _value_to_delimiter(file: BinaryIO, tag: int, vr: str | None) -> bytes | None:
    """Of an element of undefined length: compressed pixels as they are, nothing of a sequence; None of any other."""
    if tag == PIXEL_DATA_TAG:
        try:
            return read_undefined_length_value(file, True, SequenceDelimiterTag)
        except EOFError:
            return None
    is_sequence = tag != MODALITY_TABLE and vr in (None, "SQ", "UN")
    is_implicit = vr != "SQ"  # what is unknown too (PS3.5 6.2.2)
    return b"" if is_sequence and _pass_items(file, is_implicit, NESTED_AT_MOST) else None


def _pass_items(file: BinaryIO, is_implicit: bool, levels: int) -> bool:
    """To behind the end of a sequence; False where something is not as it should be."""
    while len(head := file.read(8)) == 8:
        tag, length = head[:4], int.from_bytes(head[4:], "little")
        if tag == _SEQUENCE_END:
            return length == 0
        if tag != _ITEM:
            return False
        if length != UNDEFINED_LENGTH:
            file.seek(length, SEEK_CUR)
        elif not _pass_elements(file, is_implicit, levels):
            return False
    return False


def _pass_elements(file: BinaryIO, is_implicit: bool, levels: int) -> bool:
    """To behind the end of an item."""
    while len(head := file.read(8)) == 8:
        if head.startswith(_ITEM_END):
            return head.endswith(_NOTHING)
        vr = b"SQ" if is_implicit else head[4:6]  # in such encodings nothing else is without a length
        if vr not in ENCODED_VR:
            return False
        n_bytes = head[4:] if is_implicit else file.read(4) if vr in _LONG_VRS else head[6:]
        length = int.from_bytes(n_bytes, "little")
        if length != UNDEFINED_LENGTH:
            file.seek(length, SEEK_CUR)
        elif vr != b"SQ" or levels == 0 or not _pass_items(file, is_implicit, levels - 1):
            return False
    return False
