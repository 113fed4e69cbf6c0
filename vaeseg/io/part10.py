"""The outside of a DICOM file (PS3.10): its prefix, how its data set is read, and to what a deflated one may grow."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from io import SEEK_END, SEEK_SET
from typing import BinaryIO, cast

import pydicom
from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import RawDataElement, empty_value_for_VR
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset, read_partial
from pydicom.tag import BaseTag

from vaeseg.config import ReadingConfig
from vaeseg.errors import ReadingError
from vaeseg.io.elements import META_GROUP, Elements, text
from vaeseg.io.headers import DEFLATED_SYNTAX, PINNED_PLUGINS
from vaeseg.io.raw_elements import (
    PIXEL_DATA_TAG,
    UNDEFINED_LENGTH,
    RawValue,
    StopWhen,
    is_passed,
    read_raw_elements,
)
from vaeseg.records import Reason

IMPLICIT_SYNTAX, BIG_ENDIAN_SYNTAX = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
USUAL_SYNTAXES = frozenset(PINNED_PLUGINS) - {BIG_ENDIAN_SYNTAX, DEFLATED_SYNTAX}
"""Little endian, and explicit but for one."""
DEFER_BYTES = 64 * 1024
"""Elements longer than this are not loaded with a header."""
PREAMBLE_BYTES = 132
"""128 of anything, then DICM."""
INFLATE_CHUNK = 2**20


def is_dicom(start: bytes) -> bool:
    """Whether a file that begins so has preamble and prefix of PS3.10."""
    return start[PREAMBLE_BYTES - 4 : PREAMBLE_BYTES] == b"DICM"


def starts_with_preamble(file: BinaryIO) -> bool:
    """Whether the DICM prefix is where PS3.10 wants it; leaves the file at its start."""
    file.seek(0)
    start = file.read(PREAMBLE_BYTES)
    file.seek(0)
    return is_dicom(start)


def read_elements(file: BinaryIO, stop_when: StopWhen, config: ReadingConfig) -> Elements:
    """The elements of a file, of file meta too, up to where it ends or `stop_when` says so.

    Args:
        file: left where reading ended.
        stop_when: asked before each element of the data set, perhaps twice.
        config: bounds.

    Raises:
        ReadingError: ``too_large``.
        Exception: one of `elements.PARSE_ERRORS`.
    """
    return _read(file, stop_when, DEFER_BYTES, config)


def read_whole(file: BinaryIO, config: ReadingConfig) -> Elements:
    """All elements of a file up to its pixels and with them; raises as `read_elements`.

    What follows is padding, signatures, or what some transfer left there, and may be no element at all.
    """
    return _read(file, _is_beyond_pixels, UNDEFINED_LENGTH, config)


def _is_beyond_pixels(tag: int, _vr: str | None, _length: int) -> bool:
    return tag > PIXEL_DATA_TAG


def _read(file: BinaryIO, stop_when: StopWhen, longest: int, config: ReadingConfig) -> Elements:
    """`longest`: bytes of a value; longer ones are left in the file until somebody asks for them."""
    has_preamble = starts_with_preamble(file)
    usual = _read_usual(file, stop_when, longest) if has_preamble else None
    if usual is not None:
        return usual
    check_inflated_size(file, config)
    stream = file if hasattr(file, "name") else cast(BinaryIO, _Nameless(file))
    return Elements.of(read_partial(stream, stop_when=stop_when, defer_size=longest, force=not has_preamble))


class _Nameless:
    """An object of an object store for pydicom, which asks buffered files for a name and goes beyond their ends."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.read, self.tell = file.read, file.tell

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)
        except OSError:
            if offset < 0:
                raise
            return self._file.seek(0, SEEK_END)  # nothing is read there, as behind the end of a file


def _read_usual(file: BinaryIO, stop_when: StopWhen, longest: int) -> Elements | None:
    """What `read_partial` gives, but for sequences that nothing needs; None where a file is not as nearly all are.

    Args:
        file: read from its beginning.
        stop_when: as `read_elements` has it.
        longest: bytes of an element; one that is longer, has a length and is not passed over makes a file unusual.
    """
    file.seek(PREAMBLE_BYTES)
    meta = read_raw_elements(file, False, _is_beyond_meta)
    syntax = text(Elements(meta, lambda: _dataset(meta, False)), "TransferSyntaxUID") if meta else ""
    if meta is None or syntax not in USUAL_SYNTAXES:
        return None
    is_unusual = False

    def stop_here(tag: int, vr: str | None, length: int) -> bool:
        nonlocal is_unusual
        if stop_when(tag, vr, length):
            return True
        is_unusual = tag >> 16 <= META_GROUP or (longest < length < UNDEFINED_LENGTH and not is_passed(tag, vr))
        return is_unusual

    is_implicit = syntax == IMPLICIT_SYNTAX
    elements = read_raw_elements(file, is_implicit, stop_here)
    if elements is None or is_unusual:
        return None

    def make_dataset() -> pydicom.Dataset:
        dataset = _dataset(elements, is_implicit)
        dataset.file_meta = FileMetaDataset(_dataset(meta, False))
        return dataset

    return Elements(meta | elements, make_dataset)


def _dataset(elements: Mapping[int, RawValue], is_implicit: bool) -> pydicom.Dataset:
    """As pydicom makes it of what it read; sequences that were passed over are empty."""
    dataset = pydicom.Dataset({BaseTag(tag): _as_pydicom(tag, value, is_implicit) for tag, value in elements.items()})
    named = "SpecificCharacterSet" in dataset
    encoding = convert_encodings(dataset.SpecificCharacterSet) if named else default_encoding
    dataset.set_original_encoding(is_implicit, True, encoding)
    return dataset


def _as_pydicom(tag: int, raw: RawValue, is_implicit: bool) -> RawDataElement:
    vr, value = raw
    given = value or cast(bytes | None, empty_value_for_VR(vr, raw=True))
    return RawDataElement(BaseTag(tag), vr, len(value), given, 0, is_implicit, True)


def check_inflated_size(file: BinaryIO, config: ReadingConfig) -> None:
    """Refuse a deflated data set that inflates beyond all bounds, before pydicom inflates it in one go."""
    limit = config.max_header_bytes
    if _is_deflated(file) and _inflates_beyond(file, limit):
        raise ReadingError(Reason.TOO_LARGE, f"the deflated data set holds more than {limit} bytes")
    file.seek(0)


def _is_deflated(file: BinaryIO) -> bool:
    """By the file meta, behind a preamble or not; leaves the file where the data set begins."""
    file.seek(PREAMBLE_BYTES if starts_with_preamble(file) else 0)
    return text(Elements.of(_read_meta(file)), "TransferSyntaxUID") == DEFLATED_SYNTAX


def _read_meta(file: BinaryIO) -> pydicom.Dataset:
    """From where the file stands; pydicom notices by itself where value representations were forgotten."""
    return read_dataset(file, is_implicit_VR=False, is_little_endian=True, stop_when=_is_beyond_meta)


def _is_beyond_meta(tag: int, _vr: str | None, _length: int) -> bool:
    return tag >> 16 != META_GROUP


def _inflates_beyond(file: BinaryIO, limit: int) -> bool:
    inflater, inflated = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while chunk := inflater.unconsumed_tail or file.read(INFLATE_CHUNK):
        inflated += len(inflater.decompress(chunk, INFLATE_CHUNK))
        if inflated > limit:
            return True
    return False
