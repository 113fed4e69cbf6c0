"""Opening DICOM files and reading their headers; `vaeseg.io.pixels` decodes what follows.

The only module that sees what names a patient. PatientID and its issuer become a keyed pseudonym here (`SubjectKeyer`)
and go no further; nothing that is read from a text element appears in a message. The elements that an operator's rules
ask for (`read_values`) are judged in `vaeseg.io.rules`, and go no further than that.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom import config as pydicom_config

from vaeseg.config import ReadingConfig
from vaeseg.errors import ReadingError
from vaeseg.geometry.stacking import TILT_TOLERANCE_DEGREES
from vaeseg.io.elements import (
    PARSE_ERRORS,
    Elements,
    code,
    first_date,
    integer,
    numbers,
    refusal_of_read,
    standard_uid,
    text,
    transfer_syntax,
    values,
)
from vaeseg.io.headers import (
    CT_IMAGE,
    DEFLATED_SYNTAX,
    LOSSY_SYNTAXES,
    MEDIA_DIRECTORY,
    InstanceHeader,
    image_digest,
)
from vaeseg.io.part10 import read_elements, starts_with_preamble
from vaeseg.io.raw_elements import PIXEL_DATA_TAG, UNDEFINED_LENGTH
from vaeseg.paths import AnyPath
from vaeseg.records import Reason, Warn
from vaeseg.remote import RemotePath

PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, PIXEL_DATA_TAG})
"""FloatPixelData, DoubleFloatPixelData, PixelData."""
STUDY_DATE_KEYWORDS = ("StudyDate", "AcquisitionDate", "SeriesDate")
"""Where the day of a study is looked for: StudyDate may be empty (type 2, PS3.3 C.7.2.1); a series that was derived
years later has the AcquisitionDate of its source, and a SeriesDate of its own."""
VALUE_CHARACTERS = 256
"""Of a value that rules look at; text elements of a CT header are 64 long."""
VALUES_OF_ELEMENT = 64
"""Values that rules look at."""
SERIES_KEYWORDS = (
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SeriesDate",
    "SeriesTime",
    "SeriesDescription",
    "FrameOfReferenceUID",
    "Modality",
)
"""All instances of a series share these."""


class SubjectKeyer:
    """Pseudonyms: HMAC-SHA256 of PatientID and its issuer under a key that stays in the store.

    The same patient of the same issuer gets the same key in every study; without the secret it cannot be reversed by
    trying patient ids.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def key(self, patient_id: str, issuer: str = "") -> str | None:
        """32 hex digits, or None for an empty PatientID."""
        if not patient_id.strip():
            return None
        message = f"{patient_id.strip()}\0{issuer.strip()}".encode()
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()[:32]


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep pydicom from printing: its warnings and logs quote values of the data set, patient data among them."""
    logger, mode = logging.getLogger("pydicom"), pydicom_config.settings.reading_validation_mode
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        pydicom_config.settings.reading_validation_mode = mode


def read_header(
    file: BinaryIO, place: AnyPath, path: str, keyer: SubjectKeyer | None, config: ReadingConfig
) -> InstanceHeader:
    """Read one DICOM header, up to its pixels.

    Args:
        file: open, wherever it stands.
        place: where it was opened.
        path: of the file, relative to the directory scanned.
        keyer: makes the subject key; None leaves it out.
        config: bounds.

    Raises:
        ReadingError: ``unreadable_instance``, ``unreadable_file``, ``dicomdir`` or ``too_large``.
    """
    try:
        return _read_open_header(file, place, path, keyer, config)
    except PARSE_ERRORS as error:
        raise refusal_of_read(error) from error


def read_values(root: AnyPath, path: str, keywords: Sequence[str], config: ReadingConfig) -> dict[str, tuple[str, ...]]:
    """Values of some elements of a header, as text; none of one that is missing, empty or cannot be decoded.

    Args:
        root: the directory scanned.
        path: of the file, relative to it.
        keywords: of elements that are no sequences and no bulk data.
        config: bounds.

    Raises:
        ReadingError: ``unreadable_instance``, ``unreadable_file``, ``changed_while_reading`` or ``too_large``.
    """
    try:
        with (root / path).open("rb") as file:
            elements = read_elements(file, _is_pixels, config)
    except FileNotFoundError as error:
        raise ReadingError(Reason.CHANGED_WHILE_READING, "a file of the series is gone") from error
    except PARSE_ERRORS as error:
        raise refusal_of_read(error) from error
    return {keyword: _values_as_text(elements, keyword) for keyword in keywords}


def image_digest_of(elements: Elements) -> str:
    """`headers.image_digest` of a file that was opened again; 0.02 ms."""
    return image_digest(
        {
            "sop_instance_uid": _sop_instance_uid(elements),
            "rescale": _rescale(elements),
            **_stored_values(elements),
            **_plane(elements),
        }
    )


def _is_pixels(tag: int, _vr: str | None, _length: int) -> bool:
    return tag in PIXEL_TAGS


def _values_as_text(elements: Elements, keyword: str) -> tuple[str, ...]:
    try:
        found = values(elements, keyword)[:VALUES_OF_ELEMENT]
        plain = [value for value in found if not isinstance(value, bytes | pydicom.Sequence)]
        texts = [str(value).strip(" \0")[:VALUE_CHARACTERS] for value in plain]
    except PARSE_ERRORS:
        return ()
    return tuple(text.encode("utf-8", "replace").decode() for text in texts if text)


def _read_open_header(
    file: BinaryIO, place: AnyPath, path: str, keyer: SubjectKeyer | None, config: ReadingConfig
) -> InstanceHeader:
    pixels: dict[str, int] = {}

    def stop_at_pixels(tag: int, _vr: str | None, length: int) -> bool:
        if tag in PIXEL_TAGS:
            pixels.update(tag=int(tag), length=length)
        return tag in PIXEL_TAGS

    has_preamble = starts_with_preamble(file)
    elements = read_elements(file, stop_at_pixels, config)
    if text(elements, "MediaStorageSOPClassUID") == MEDIA_DIRECTORY or "DirectoryRecordSequence" in elements:
        raise ReadingError(Reason.DICOMDIR, "a DICOMDIR lists other files and holds no image")
    if not any(keyword in elements for keyword in ("SOPClassUID", "Modality", "SeriesInstanceUID")):
        raise ReadingError(Reason.UNREADABLE_INSTANCE, "no SOP class, modality or series in the header")
    if not pixels and "SeriesInstanceUID" not in elements:
        raise ReadingError(Reason.UNREADABLE_INSTANCE, "the header ends before it names a series")
    status = place.stat() if isinstance(place, RemotePath) else os.fstat(file.fileno())
    rescale = _rescale(elements)
    in_file = _pixel_bytes_in_file(elements, pixels, status.st_size - _start_of_value(file))
    return InstanceHeader(
        path=path,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        subject_key=keyer.key(text(elements, "PatientID"), text(elements, "IssuerOfPatientID")) if keyer else None,
        has_pixel_data=pixels.get("tag") == PIXEL_DATA_TAG,
        pixel_data_bytes=in_file,
        is_encapsulated=pixels.get("length") == UNDEFINED_LENGTH,
        warnings=_header_warnings(elements, has_preamble, rescale is not None),
        rescale=rescale,
        **_identity(elements, path),
        **_stored_values(elements),
        **_plane(elements),
    )


def _identity(elements: Elements, path: str) -> dict[str, Any]:
    sop_class = standard_uid(text(elements, "SOPClassUID") or text(elements, "MediaStorageSOPClassUID"))
    study, series = (standard_uid(text(elements, keyword)) for keyword in ("StudyInstanceUID", "SeriesInstanceUID"))
    return {
        "sop_instance_uid": _sop_instance_uid(elements),
        "sop_class_uid": sop_class,
        "study_instance_uid": study,
        "series_instance_uid": series,
        "series_group": "" if study and series else _series_group(elements, path),
        "study_date": first_date(elements, STUDY_DATE_KEYWORDS),
        "modality": code(text(elements, "Modality")) or ("CT" if sop_class == CT_IMAGE else ""),
        "image_type": tuple(str(value).strip().upper() for value in values(elements, "ImageType")),
        "transfer_syntax_uid": standard_uid(transfer_syntax(elements)),
        "acquisition_number": integer(elements, "AcquisitionNumber", None),
        "instance_number": integer(elements, "InstanceNumber", None),
        "n_frames": integer(elements, "NumberOfFrames", 1) or 1,
        "samples_per_pixel": integer(elements, "SamplesPerPixel", 1),
        "photometric": text(elements, "PhotometricInterpretation"),
    }


def _sop_instance_uid(elements: Elements) -> str:
    in_data_set = standard_uid(text(elements, "SOPInstanceUID"))
    return in_data_set or standard_uid(text(elements, "MediaStorageSOPInstanceUID"))


def _stored_values(elements: Elements) -> dict[str, Any]:
    bits_allocated = integer(elements, "BitsAllocated", 0) or 0
    bits_stored = integer(elements, "BitsStored", bits_allocated) or 0
    return {
        "bits_allocated": bits_allocated,
        "bits_stored": bits_stored,
        "high_bit": integer(elements, "HighBit", bits_stored - 1),
        "pixel_representation": integer(elements, "PixelRepresentation", None),
    }


def _rescale(elements: Elements) -> tuple[float, float] | None:
    slope, intercept = numbers(elements, "RescaleSlope", 1), numbers(elements, "RescaleIntercept", 1)
    return None if slope is None or intercept is None else (slope[0], intercept[0])


def _plane(elements: Elements) -> dict[str, Any]:
    return {
        "rows": integer(elements, "Rows", 0),
        "columns": integer(elements, "Columns", 0),
        "position": numbers(elements, "ImagePositionPatient", 3),
        "orientation": numbers(elements, "ImageOrientationPatient", 6),
        "pixel_spacing_mm": numbers(elements, "PixelSpacing", 2),
    }


def _header_warnings(elements: Elements, has_preamble: bool, has_rescale: bool) -> tuple[Warn, ...]:
    tilt = numbers(elements, "GantryDetectorTilt", 1)
    lossy = text(elements, "LossyImageCompression") == "01" or transfer_syntax(elements) in LOSSY_SYNTAXES
    found = {
        Warn.NO_PREAMBLE: not has_preamble,
        Warn.RESCALE_MISSING: not has_rescale and not elements.converted("ModalityLUTSequence"),
        Warn.RESCALE_TYPE_NOT_HU: _rescale_type(elements) not in ("", "HU", "HU_MOD"),
        Warn.MONOCHROME1: text(elements, "PhotometricInterpretation") == "MONOCHROME1",
        Warn.LOSSY_COMPRESSION: lossy,
        Warn.GANTRY_TILT: tilt is not None and abs(tilt[0]) > TILT_TOLERANCE_DEGREES,
    }
    return tuple(warn for warn, applies in found.items() if applies)


def _rescale_type(elements: Elements) -> str:
    """What the modality transformation is said to give, by its table where there is one."""
    tables = elements.converted("ModalityLUTSequence")
    return (text(Elements.of(tables[0]), "ModalityLUTType") if tables else text(elements, "RescaleType")).upper()


def _series_group(elements: Elements, path: str) -> str:
    """Digest of what sets series apart where a UID is missing or is none: the directory, among others."""
    parts = [str(Path(path).parent), *(text(elements, keyword) for keyword in SERIES_KEYWORDS)]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def _pixel_bytes_in_file(elements: Elements, pixels: dict[str, int], left: int) -> int | None:
    if not pixels or pixels["length"] == UNDEFINED_LENGTH or transfer_syntax(elements) == DEFLATED_SYNTAX:
        return None
    return max(0, min(pixels["length"], left))


def _start_of_value(file: BinaryIO) -> int:
    """Of the element at which the file stands; whether it names its VR is seen there, as file meta may be wrong."""
    start = file.tell()
    after_tag = file.read(8)[4:]
    is_explicit = after_tag[:2].isalpha() and after_tag[:2].isupper() and after_tag[2:] == b"\0\0"
    return start + (12 if is_explicit else 8)
