"""What one DICOM header tells about one instance, without its pixels.

Nothing here knows a patient: identifiers that name one are turned into a key in `vaeseg.io.dicom` and nowhere else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from vaeseg.geometry.affine import SPACING_RANGE_MM
from vaeseg.records import Reason, Warn


@dataclass(frozen=True, kw_only=True)
class InstanceHeader:
    """One SOP instance as the index needs it; every field comes from the file and is not trusted."""

    path: str
    """Relative to the root that was scanned."""
    size: int
    """Of the file, bytes."""
    mtime_ns: int
    sop_instance_uid: str
    """Empty where neither data set nor file meta has one."""
    sop_class_uid: str
    """Empty where there is none, or none that is a UID."""
    study_instance_uid: str
    series_instance_uid: str
    """Empty where the data set has none; `series_group` tells such series apart."""
    series_group: str
    """Digest of what keeps series apart where a UID of study or series is missing; else empty."""
    subject_key: str | None
    study_date: date | None
    """None where no date element holds a date."""
    modality: str
    """Of a CT Image Storage object without one, CT."""
    image_type: tuple[str, ...]
    transfer_syntax_uid: str
    """Empty where what is named is no UID."""
    photometric: str
    rows: int
    columns: int
    n_frames: int
    samples_per_pixel: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    acquisition_number: int | None
    position: tuple[float, float, float] | None
    """ImagePositionPatient, LPS mm."""
    orientation: tuple[float, ...] | None
    """ImageOrientationPatient, six direction cosines."""
    pixel_spacing_mm: tuple[float, float] | None
    """Between rows, between columns."""
    has_pixel_data: bool
    pixel_data_bytes: int | None
    """Bytes of PixelData that are in the file; None where its length is undefined (encapsulated) or unknown."""
    is_encapsulated: bool
    """Whether PixelData has undefined length, as every compressed syntax and no other has it."""
    warnings: tuple[Warn, ...] = ()
    rescale: tuple[float, float] | None = None
    """RescaleSlope and RescaleIntercept; None where one is missing or no number."""
    pixel_representation: int | None = None
    """0 for unsigned stored values, 1 for signed ones (PS3.3 C.7.6.3.1); None where it is missing or no number."""
    instance_number: int | None = None

    @property
    def slice_voxels(self) -> int:
        """What the header claims, before anything is allocated."""
        return self.rows * self.columns * max(1, self.n_frames)


def described_image(fields: Mapping[str, Any]) -> str:
    """Where the pixels of an instance lie and what their stored values mean, as a text to compare.

    Args:
        fields: of an `InstanceHeader`, those of its plane, stored values and rescale at least.
    """
    plane = tuple(fields[name] for name in ("rows", "columns", "position", "orientation", "pixel_spacing_mm"))
    values = tuple(fields[name] for name in ("pixel_representation", "bits_allocated", "bits_stored", "high_bit"))
    return f"{plane!r} {fields['rescale']!r} {values!r}"


def image_digest(fields: Mapping[str, Any]) -> str:
    """16 hex digits over which instance it is and `described_image`."""
    return hashlib.sha256(f"{fields['sop_instance_uid']} {described_image(fields)}".encode()).hexdigest()[:16]


CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = frozenset({"1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"})
"""Enhanced CT and Legacy Converted Enhanced CT Image Storage."""
NON_IMAGE_MODALITIES = frozenset({"RTSTRUCT", "RTPLAN", "RTRECORD", "SR", "KO", "PR", "REG", "FID", "DOC"})
"""Objects that describe images; some writers give them a stray PixelData element all the same."""
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""Also the root of its multi-frame forms."""
SCREEN_WORDS = frozenset({"SCREEN SAVE", "SCREENSAVE", "DOSE_INFO"})
"""In ImageType: pictures of a screen that scanners store under the CT SOP class."""
GREYSCALE = frozenset({"", "MONOCHROME1", "MONOCHROME2"})
MAX_POSITION_MM = 1e5
"""A position further from the origin is damage."""
MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
LOCALIZER_WORDS = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM"})
PROJECTION_WORDS = frozenset({"MIP", "MINIP", "MAX_IP", "MIN_IP", "PROJECTION IMAGE"})
"""In ImageType, as a value of their own or as a word of one (PS3.3 C.8.16.1 has three of them, vendors the others)."""
NATIVE_SYNTAXES = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"})
"""Implicit and explicit little endian, explicit big endian: pixels as they are, so that their length can be checked."""
DEFLATED_SYNTAX = "1.2.840.10008.1.2.1.99"
UNCOMPRESSED_SYNTAXES = NATIVE_SYNTAXES | {DEFLATED_SYNTAX}

PINNED_PLUGINS = {
    **dict.fromkeys(UNCOMPRESSED_SYNTAXES, ""),
    "1.2.840.10008.1.2.5": "pydicom",  # RLE that `io.rle` does not take
    "1.2.840.10008.1.2.4.50": "gdcm",  # JPEG baseline, 8 bit, lossy
    "1.2.840.10008.1.2.4.57": "gdcm",  # JPEG lossless
    "1.2.840.10008.1.2.4.70": "gdcm",  # JPEG lossless, first-order prediction
    "1.2.840.10008.1.2.4.80": "pyjpegls",  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.81": "pyjpegls",  # JPEG-LS near-lossless
    "1.2.840.10008.1.2.4.90": "pylibjpeg",  # JPEG 2000 lossless
    "1.2.840.10008.1.2.4.91": "pylibjpeg",  # JPEG 2000
    "1.2.840.10008.1.2.4.201": "pylibjpeg",  # HTJ2K lossless
    "1.2.840.10008.1.2.4.202": "pylibjpeg",  # HTJ2K lossless RPCL
    "1.2.840.10008.1.2.4.203": "pylibjpeg",  # HTJ2K
}
"""One decoder per transfer syntax and no fall-back: pydicom's own order hands a truncated JPEG-LS stream on to a
decoder that returns wrong pixels without an exception. A syntax that is not here is refused."""

LOSSY_SYNTAXES = frozenset({f"1.2.840.10008.1.2.4.{n}" for n in (50, 81, 91, 203)})


def is_projection(header: InstanceHeader) -> bool:
    """Whether an image holds the greatest or least values of several slices, by its ImageType."""
    words = {word for value in header.image_type for word in (value, *value.split())}
    return not PROJECTION_WORDS.isdisjoint(words)


def refusal_of_object(header: InstanceHeader) -> tuple[Reason, str] | None:
    """Why an object cannot be a slice of a CT volume at all, or None.

    Such objects leave their series alone: a localizer in the same folder, or even under the same series UID, is counted
    and the other instances are judged without it.
    """
    if header.sop_class_uid in ENHANCED_CT or (header.modality == "CT" and header.n_frames > 1):
        return Reason.ENHANCED_MULTIFRAME_UNSUPPORTED, f"multi-frame object with {header.n_frames} frames"
    if f"{header.sop_class_uid}.".startswith(f"{SECONDARY_CAPTURE}.") or SCREEN_WORDS & set(header.image_type):
        return Reason.SECONDARY_CAPTURE, "secondary capture, not a reconstructed slice"
    if header.modality != "CT" or header.sop_class_uid not in ("", CT_IMAGE):
        modality = header.modality or "none"
        if modality in NON_IMAGE_MODALITIES or not header.has_pixel_data:
            return Reason.NOT_AN_IMAGE, f"{modality} object, expected a CT image"
        return Reason.WRONG_MODALITY, f"modality {modality}, SOP class {header.sop_class_uid}, expected CT"
    if LOCALIZER_WORDS & set(header.image_type):
        return Reason.LOCALIZER, "ImageType says localizer"
    if header.has_pixel_data and (header.samples_per_pixel != 1 or header.photometric not in GREYSCALE):
        return Reason.UNSUPPORTED_PIXEL_FORMAT, f"{header.samples_per_pixel} samples a pixel, expected 1 of grey"
    return None


def refusal_of_geometry(header: InstanceHeader) -> tuple[Reason, str] | None:
    """Why a CT instance has no place in a volume, or None."""
    for keyword, value in (
        ("ImagePositionPatient", header.position),
        ("ImageOrientationPatient", header.orientation),
        ("PixelSpacing", header.pixel_spacing_mm),
    ):
        if value is None and not header.has_pixel_data:
            return Reason.MISSING_PIXEL_DATA, f"neither {keyword} nor PixelData: the file may be cut short"
        if value is None:
            return Reason.MISSING_GEOMETRY, f"{keyword} is missing, or is not the numbers it should be"
    low, high = SPACING_RANGE_MM
    if not all(low <= spacing <= high for spacing in header.pixel_spacing_mm or ()):
        return Reason.INVALID_GEOMETRY, f"PixelSpacing {header.pixel_spacing_mm} mm, expected {low:g} to {high:g}"
    if max(map(abs, header.position or ())) > MAX_POSITION_MM or max(map(abs, header.orientation or ())) > 2:
        return Reason.INVALID_GEOMETRY, "ImagePositionPatient or ImageOrientationPatient is out of all bounds"
    return None


def refusal_of_pixels(header: InstanceHeader) -> tuple[Reason, str] | None:
    """Why the pixels of a CT instance cannot be read, as far as its header tells, or None."""
    if not header.has_pixel_data:
        return Reason.MISSING_PIXEL_DATA, "CT image without PixelData"
    if header.rows < 1 or header.columns < 1:
        return Reason.UNSUPPORTED_PIXEL_FORMAT, f"{header.rows} rows and {header.columns} columns"
    if header.transfer_syntax_uid not in PINNED_PLUGINS:
        return Reason.UNSUPPORTED_TRANSFER_SYNTAX, f"no decoder for transfer syntax {header.transfer_syntax_uid}"
    if header.is_encapsulated and header.transfer_syntax_uid in UNCOMPRESSED_SYNTAXES:
        return Reason.DECODE_FAILED, "compressed pixels under a transfer syntax that says they are not"
    return _refusal_of_bits(header) or _refusal_of_length(header)


def _refusal_of_bits(header: InstanceHeader) -> tuple[Reason, str] | None:
    allocated, stored, high = header.bits_allocated, header.bits_stored, header.high_bit
    if allocated in (8, 16, 32) and 0 < stored <= allocated and high == stored - 1:
        return None
    detail = f"{allocated} bits allocated, {stored} stored, high bit {high}"
    return Reason.UNSUPPORTED_PIXEL_FORMAT, detail


def _refusal_of_length(header: InstanceHeader) -> tuple[Reason, str] | None:
    if header.transfer_syntax_uid not in NATIVE_SYNTAXES or header.pixel_data_bytes is None:
        return None
    expected = header.slice_voxels * header.bits_allocated // 8
    if header.pixel_data_bytes < expected:
        return Reason.TRUNCATED_PIXEL_DATA, f"{header.pixel_data_bytes} bytes of pixels, expected {expected}"
    return None
