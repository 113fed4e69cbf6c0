"""Single elements of a DICOM data set as plain values; what is missing or is not what it should be gives a default.

A value that is plain ASCII, as nearly all are, is taken from the bytes that were read: converting values into its own
types took pydicom 0.85 of the 1.15 ms of a header. Anything else is left to it.
"""

from __future__ import annotations

import errno
import math
import re
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import cache, cached_property, lru_cache
from typing import Any

import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.tag import Tag

from vaeseg.errors import ReadingError
from vaeseg.io.raw_elements import RawValue
from vaeseg.records import Reason

PARSE_ERRORS = (
    BytesLengthException,
    InvalidDicomError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What pydicom raises on files that are damaged in one way or another."""


def refusal_of_read(error: Exception) -> ReadingError:
    """What a file that gave one of `PARSE_ERRORS` is refused with: ``unreadable_instance``, or ``unreadable_file``."""
    if _is_of_the_disk(error):
        return ReadingError(Reason.UNREADABLE_FILE, f"cannot be read ({type(error).__name__})")
    return ReadingError(Reason.UNREADABLE_INSTANCE, f"not a readable DICOM file ({type(error).__name__})")


def _is_of_the_disk(error: Exception) -> bool:
    """Whether it is an error that a file is not to blame for; a damaged one can ask for a place below 0 (EINVAL)."""
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)


UID_PATTERN = re.compile(r"[0-9][0-9.]{0,63}")
DATE_PATTERN = re.compile(r"(\d{4})(\d\d)(\d\d)|(\d{4})\.(\d\d)\.(\d\d)", re.ASCII)
"""Value representation DA (PS3.5 6.2), and as versions before 3.0 wrote it, with points."""
FIRST_DAY, LAST_DAY = date(1901, 1, 1), date(2300, 1, 1)
"""Others stand for no date, such as 00010101, 19000101 and 99991231; pseudonyms of dates lie up to 2210."""
CODE_PATTERN = re.compile(r"[A-Z0-9_ ]{1,16}")
"""Value representation CS (PS3.5 6.2); anything else is taken as empty, so that no message can quote a name."""

PLAIN_TEXT = re.compile(rb"[ -}]+\0?")
"""ASCII that means the same in every character set."""
TEXT_VRS = frozenset({"CS", "DA", "LO", "SH", "TM", "UI"})
PLAIN_NUMBERS = {"DS": re.compile(rb"[0-9+\-.eE\\ ]+\0?"), "IS": re.compile(rb"[0-9+\-\\ ]+\0?")}

KEPT_NUMBERS, KEPT_BYTES = 1024, 128
"""Values of numeric elements whose numbers are kept, and the longest: slices of a series share nearly all of them."""

META_GROUP = 0x0002
"""Of the elements of file meta information (PS3.10 7.1)."""

NO_VALUE: RawValue = "", b""


class Elements:
    """What was read of a file: elements as bytes, those of file meta too, and pydicom's data set where one is needed.

    Of nearly all headers none is: making one takes longer than reading the bytes.
    """

    def __init__(self, as_read: Mapping[int, RawValue], make_dataset: Callable[[], pydicom.Dataset]) -> None:
        self._as_read = as_read
        self._make_dataset = make_dataset

    @classmethod
    def of(cls, dataset: pydicom.Dataset) -> Elements:
        """Those of a data set that there is already."""
        as_read = _as_read(dataset)
        if hasattr(dataset, "file_meta"):  # which alone has elements of its group, whatever the rest holds
            as_read = {tag: one for tag, one in as_read.items() if tag >> 16 != META_GROUP} | _as_read(
                dataset.file_meta
            )
        return cls(as_read, lambda: dataset)

    @cached_property
    def dataset(self) -> pydicom.Dataset:
        """As pydicom reads the file."""
        return self._make_dataset()

    def __contains__(self, keyword: str) -> bool:
        return _tag(keyword) in self._as_read

    def plain(self, keyword: str) -> RawValue:
        """Value representation and little endian bytes, before any conversion.

        Of no bytes where it is missing or empty, and where pydicom alone has the value: deferred, or converted already.
        """
        tag = _tag(keyword)
        vr, value = self._as_read.get(tag, NO_VALUE)
        return (_dictionary_vr(tag) if vr is None else vr), value

    def converted(self, keyword: str) -> Any:
        """The value as pydicom has it; None where it is missing."""
        if keyword not in self:
            return None
        part = self.dataset
        if _tag(keyword) >> 16 == META_GROUP:
            part = getattr(part, "file_meta", part)  # file meta alone has none of its own
        return part.get(keyword)


def _as_read(dataset: pydicom.Dataset) -> dict[int, RawValue]:
    return {int(tag): _raw_value(dataset.get_item(tag, keep_deferred=True)) for tag in list(dataset.keys())}


def _raw_value(element: RawDataElement | DataElement) -> RawValue:
    if isinstance(element, RawDataElement) and element.is_little_endian and element.value:
        return element.VR, element.value
    return NO_VALUE


@cache
def _tag(keyword: str) -> int:
    return int(Tag(keyword))


_dictionary_vr: Callable[[int], str] = cache(dictionary_VR)


def text(elements: Elements, keyword: str) -> str:
    """One element as stripped text; empty where it is missing."""
    vr, raw = elements.plain(keyword)
    if vr in TEXT_VRS and PLAIN_TEXT.fullmatch(raw) and b"\\" not in raw:
        return raw.decode("ascii").strip(" \0")
    value = elements.converted(keyword)
    return "" if value is None else str(value).strip(" \0")


def values(elements: Elements, keyword: str) -> list[Any]:
    """All values of an element; none where it is missing."""
    vr, raw = elements.plain(keyword)
    if vr == "CS" and PLAIN_TEXT.fullmatch(raw):
        return raw.decode("ascii").rstrip(" \0").split("\\")
    value = elements.converted(keyword)
    if value is None:
        return []
    return list(value) if isinstance(value, pydicom.multival.MultiValue) else [value]


def numbers(elements: Elements, keyword: str, count: int) -> tuple[float, ...] | None:
    """`count` finite numbers, or None where the element is missing or is anything else."""
    try:
        numbers = _plain_numbers(elements, keyword) or tuple(map(_number, values(elements, keyword)))
    except PARSE_ERRORS:
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def _plain_numbers(elements: Elements, keyword: str) -> tuple[float, ...] | None:
    """From the bytes as they were read, or None where they are not plain.

    Raises:
        ValueError: they are no numbers.
    """
    vr, raw = elements.plain(keyword)
    return _kept_numbers_in(vr, raw) if len(raw) <= KEPT_BYTES else _numbers_in(vr, raw)


def _numbers_in(vr: str | None, raw: bytes) -> tuple[float, ...] | None:
    if vr == "US" and len(raw) == 2:
        return (float(int.from_bytes(raw, "little")),)
    if vr in PLAIN_NUMBERS and PLAIN_NUMBERS[vr].fullmatch(raw):
        return tuple(map(float, raw.rstrip(b" \0").split(b"\\")))
    return None


_kept_numbers_in = lru_cache(maxsize=KEPT_NUMBERS)(_numbers_in)


def _number(value: Any) -> float:
    """As Python reads it, but for digits in groups: 6_0.0 is no number in DICOM (PS3.5 6.2).

    Raises:
        ValueError: it is none.
    """
    if "_" in str(value):
        raise ValueError("an underscore in a number")
    return float(value)


def integer(elements: Elements, keyword: str, default: int | None) -> int | None:
    """A whole number, or the default where it is missing or is anything else."""
    number = numbers(elements, keyword, 1)
    return default if number is None else int(number[0])


def first_date(elements: Elements, keywords: Sequence[str]) -> date | None:
    """The first of some elements that holds a day between `FIRST_DAY` and `LAST_DAY`; None where none does."""
    for keyword in keywords:
        written = text(elements, keyword)
        if DATE_PATTERN.fullmatch(written):
            try:
                found = date.fromisoformat(written.replace(".", ""))
            except ValueError:
                continue  # such as 20261345 or 00000000
            if FIRST_DAY <= found < LAST_DAY:
                return found
    return None


def code(text: str) -> str:
    """A defined term in upper case; empty for text that cannot be one."""
    return text.upper() if CODE_PATTERN.fullmatch(text.upper()) else ""


def standard_uid(text: str) -> str:
    """The UID if it is one (PS3.5 chapter 9: digits and dots, at most 64), else empty: it will name a directory."""
    return text if UID_PATTERN.fullmatch(text) else ""


def transfer_syntax(elements: Elements) -> str:
    """From the file meta; a data set without one is read as pydicom found it to be encoded."""
    named = text(elements, "TransferSyntaxUID")
    if named:
        return named
    implicit, little = elements.dataset.original_encoding
    if not little:
        return str(pydicom.uid.ExplicitVRBigEndian)
    return str(pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian)
