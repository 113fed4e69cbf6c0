"""Elements of a little endian data set as the bytes that stand in the file (PS3.5 chapter 7).

pydicom makes an object of every element, and a data set of every item of a sequence: 0.30 ms for 61 elements and two
sequences, and 0.04 ms here. Only what is as the standard has it is taken; the rest is left to pydicom. Sequences are
passed over, those of undefined length item by item to where they end.
"""

from __future__ import annotations

from collections.abc import Callable
from io import SEEK_CUR
from struct import Struct
from typing import BinaryIO

from pydicom.datadict import dictionary_VR, tag_for_keyword
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
PASSED_AT_MOST = 2**24
"""Bytes of one value within a sequence, or of a sequence that has a length."""

_VRS = {vr: vr.decode() for vr in ENCODED_VR}
_LONG_VRS = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_32)
"""Two bytes follow, and four of length."""
_EXPLICIT, _IMPLICIT = Struct("<HH2sH").unpack, Struct("<HHL").unpack
_ITEM, _ITEM_END, _SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0"
_NOTHING = bytes(4)
"""The length of a delimiter."""
_DELIMITERS, _PIXELS = 0xFFFE, PIXEL_DATA_TAG >> 16
"""Groups."""


def is_passed(tag: int, vr: str | None) -> bool:
    """Whether an element is a sequence by its representation, and none that is read."""
    return vr == "SQ" and tag != MODALITY_TABLE


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
                if len(more := read(4)) < 4:
                    return None
                head, length = head + more, int.from_bytes(more, "little")
        is_known = is_implicit or vr is not None
        if group == _DELIMITERS or (group == _PIXELS and not is_known):
            return None
        tag = group << 16 | number
        if stop_when(tag, vr, length):
            file.seek(-len(head), SEEK_CUR)
            return elements
        if not is_known:
            return None
        if length == UNDEFINED_LENGTH:
            value = _value_to_delimiter(file, tag, vr)
            if value is None:
                return None
        elif is_passed(tag, vr):
            value = b""
            if not _pass_bytes(file, length):
                return None
        else:
            value = read(length)
            if len(value) < length:
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
    is_sequence = tag != MODALITY_TABLE and _is_sequence(tag, vr)
    is_implicit = vr != "SQ"  # what is unknown too (PS3.5 6.2.2)
    return b"" if is_sequence and _pass_items(file, is_implicit, NESTED_AT_MOST) else None


def _is_sequence(tag: int, vr: str | None) -> bool:
    """Of an element of undefined length."""
    if vr is not None and vr != "UN":
        return vr == "SQ"
    try:
        return dictionary_VR(tag) == "SQ"
    except KeyError:  # a private one, and nothing else is without a length
        return True


def _pass_items(file: BinaryIO, is_implicit: bool, levels: int) -> bool:
    """To behind the end of a sequence; False where something is not as it should be."""
    while len(head := file.read(8)) == 8:
        tag, length = head[:4], int.from_bytes(head[4:], "little")
        if tag == _SEQUENCE_END:
            return length == 0
        if tag != _ITEM:
            return False
        is_open = length == UNDEFINED_LENGTH
        if not (_pass_elements(file, is_implicit, levels) if is_open else _pass_bytes(file, length)):
            return False
    return False


def _pass_elements(file: BinaryIO, is_implicit: bool, levels: int) -> bool:
    """To behind the end of an item, whose elements are in the order of their tags."""
    before = -1
    while len(head := file.read(8)) == 8:
        if head.startswith(_ITEM_END):
            return head.endswith(_NOTHING)
        group, number, code, _ = _EXPLICIT(head)
        vr = b"SQ" if is_implicit else code  # in such encodings nothing else is without a length
        tag = group << 16 | number
        if vr not in ENCODED_VR or tag <= before:
            return False
        n_bytes = head[4:] if is_implicit else file.read(4) if vr in _LONG_VRS else head[6:]
        length, before = int.from_bytes(n_bytes, "little"), tag
        if length != UNDEFINED_LENGTH:
            is_passed = _pass_bytes(file, length)
        else:
            is_passed = vr == b"SQ" and levels > 0 and _pass_items(file, is_implicit, levels - 1)
        if not is_passed:
            return False
    return False


def _pass_bytes(file: BinaryIO, length: int) -> bool:
    """Read, since in an object store there is no place behind the end to go to."""
    return length <= PASSED_AT_MOST and len(file.read(length)) == length
