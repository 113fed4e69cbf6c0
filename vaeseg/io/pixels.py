"""From one DICOM instance to Hounsfield units: pinned decoders, strict lengths, each instance's own rescale."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut

from vaeseg.config import ReadingConfig
from vaeseg.errors import ReadingError
from vaeseg.io.ahead import FetchedFile
from vaeseg.io.codestream import RLE_SYNTAX, PixelFormat, check_codestream
from vaeseg.io.dicom import image_digest_of
from vaeseg.io.elements import PARSE_ERRORS, Elements, integer, numbers, refusal_of_read, text, transfer_syntax
from vaeseg.io.headers import PINNED_PLUGINS, UNCOMPRESSED_SYNTAXES
from vaeseg.io.jpeg import jpeg_frame
from vaeseg.io.libjpeg import complaints_raised
from vaeseg.io.manifest import SliceFile
from vaeseg.io.part10 import read_whole
from vaeseg.io.rle import unpacked_frame
from vaeseg.records import Reason, Warn

InstanceHu = tuple[npt.NDArray[np.int32] | npt.NDArray[np.float32], frozenset[Warn]]


def read_instance_hu(
    place: Path | FetchedFile, file: SliceFile, shape: tuple[int, int], config: ReadingConfig
) -> InstanceHu:
    """Decode one instance and apply its own rescale.

    Args:
        place: the file.
        file: what the index recorded of this instance; the file must still agree.
        shape: (rows, columns).
        config: bounds.

    Returns:
        (J, I) Hounsfield units, int32 where slope and intercept are whole numbers, else float32; and what was noticed.

    Raises:
        ReadingError: the file changed or cannot be read, its pixels are truncated or missing, or the pinned decoder
            refuses them.
    """
    elements = _open(place, config)
    _check_unchanged(elements, file)
    syntax = _checked_syntax(elements)
    try:
        noticed = _check_encoding(elements, syntax, shape)
        stored = _as_they_stand(elements, syntax, shape)
        if stored is None:
            stored = decoded(elements.dataset, syntax, shape)
        return _to_hu(stored, elements), noticed
    except PARSE_ERRORS as error:
        detail = f"the decoder refused the pixels ({type(error).__name__})"
        raise ReadingError(Reason.DECODE_FAILED, detail) from error


def _open(place: Path | FetchedFile, config: ReadingConfig) -> Elements:
    try:
        with place.open("rb") as stream:
            return read_whole(stream, config)
    except FileNotFoundError as error:
        raise ReadingError(Reason.CHANGED_WHILE_READING, "a file of the series is gone") from error
    except PARSE_ERRORS as error:
        raise refusal_of_read(error) from error


def _check_unchanged(elements: Elements, file: SliceFile) -> None:
    if "PixelData" not in elements:  # the index saw it begin; pydicom drops what it read before an early end
        raise ReadingError(Reason.TRUNCATED_PIXEL_DATA, "the file ends within its pixel data")
    if image_digest_of(elements) != file.image_digest:
        detail = "instance, place or rescale differs from what the index recorded"
        raise ReadingError(Reason.CHANGED_WHILE_READING, detail)


def _checked_syntax(elements: Elements) -> str:
    """The transfer syntax, where there is a decoder for it."""
    syntax = transfer_syntax(elements)
    if syntax not in PINNED_PLUGINS:
        raise ReadingError(Reason.UNSUPPORTED_TRANSFER_SYNTAX, "no decoder for the transfer syntax")
    return syntax


def _check_encoding(elements: Elements, syntax: str, shape: tuple[int, int]) -> frozenset[Warn]:
    if syntax in UNCOMPRESSED_SYNTAXES:
        return _check_length(elements, shape)
    dataset = elements.dataset
    return check_codestream(_first_frame(dataset), syntax, _format_by_header(dataset, shape))


def _first_frame(dataset: pydicom.Dataset) -> bytes:
    return next(generate_frames(dataset.PixelData, number_of_frames=1))


def _format_by_header(dataset: pydicom.Dataset, shape: tuple[int, int]) -> PixelFormat:
    is_signed = dataset.PixelRepresentation == 1
    return PixelFormat(shape=shape, components=1, precision=dataset.BitsStored, is_signed=is_signed)


def _check_length(elements: Elements, shape: tuple[int, int]) -> frozenset[Warn]:
    expected = shape[0] * shape[1] * (integer(elements, "BitsAllocated", 0) or 0) // 8
    found = len(elements.plain("PixelData")[1] or elements.dataset.PixelData)
    if found < expected:
        raise ReadingError(Reason.TRUNCATED_PIXEL_DATA, f"{found} bytes of pixels, expected {expected}")
    return frozenset({Warn.EXCESS_PIXEL_DATA}) if found > expected + expected % 2 else frozenset()


def _as_they_stand(elements: Elements, syntax: str, shape: tuple[int, int]) -> npt.NDArray[np.integer[Any]] | None:
    """Native pixels whose header is in order; None of any others, which pydicom judges."""
    _, raw = elements.plain("PixelData")
    sign, allocated, stored, high = (
        integer(elements, keyword, None)
        for keyword in ("PixelRepresentation", "BitsAllocated", "BitsStored", "HighBit")
    )
    if syntax not in UNCOMPRESSED_SYNTAXES or not raw or not _is_one_grey_frame(elements):
        return None
    if sign not in (0, 1) or allocated not in (8, 16, 32):
        return None
    if stored is None or not 0 < stored <= allocated or high != stored - 1:
        return None
    pixels = np.frombuffer(raw, f"<{'ui'[sign]}{allocated // 8}", shape[0] * shape[1]).reshape(shape)
    return pixels if stored == allocated else _without_unused_bits(pixels, allocated - stored)


def _is_one_grey_frame(elements: Elements) -> bool:
    """By elements that are there and are what they should be."""
    is_one = "NumberOfFrames" not in elements or integer(elements, "NumberOfFrames", None) == 1
    is_grey = text(elements, "PhotometricInterpretation") in ("MONOCHROME1", "MONOCHROME2")
    return is_one and is_grey and integer(elements, "SamplesPerPixel", None) == 1


def _without_unused_bits(pixels: npt.NDArray[np.integer[Any]], n_bits: int) -> npt.NDArray[np.integer[Any]]:
    """Bits above those stored may hold anything (PS3.5 8.1.1)."""
    return np.asarray((pixels << n_bits) >> n_bits)


def decoded(dataset: pydicom.Dataset, syntax: str, shape: tuple[int, int]) -> npt.NDArray[np.integer[Any]]:
    """Stored values as they are, MONOCHROME1 too: inverting would turn HU round."""
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    plugin = PINNED_PLUGINS[syntax]
    stored = QUICK_DECODERS[syntax](dataset, shape) if syntax in QUICK_DECODERS else None
    if stored is None:
        decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
        with GUARDS.get(plugin, nullcontext)():
            stored, _ = decoder.as_array(dataset, raw=True, index=0, decoding_plugin=plugin)
    if stored.shape != shape:
        raise ReadingError(Reason.DECODE_FAILED, f"decoded to {stored.shape}, expected {shape}")
    _check_range(stored, dataset.BitsStored)
    return stored


def _unpacked(dataset: pydicom.Dataset, shape: tuple[int, int]) -> npt.NDArray[np.integer[Any]] | None:
    """RLE that is in order; None of any other, which pydicom judges."""
    sign, allocated, bits_stored = "ui"[dataset.PixelRepresentation], dataset.BitsAllocated, dataset.BitsStored
    if allocated not in (8, 16, 32) or not 0 < bits_stored <= allocated:
        return None
    pixels = unpacked_frame(_first_frame(dataset), shape[0] * shape[1], allocated // 8)
    if pixels is None:
        return None
    return _without_unused_bits(pixels.view(f"<{sign}{allocated // 8}").reshape(shape), allocated - bits_stored)


def _unjpegged(dataset: pydicom.Dataset, shape: tuple[int, int]) -> npt.NDArray[np.integer[Any]] | None:
    """JPEG that is in order; None of any other, which pydicom judges."""
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    pixels = jpeg_frame(_first_frame(dataset), syntax, _format_by_header(dataset, shape))
    if pixels is None or 8 * pixels.shape[-1] != dataset.BitsAllocated:
        return None
    return pixels.view(f"<{'ui'[dataset.PixelRepresentation]}{pixels.shape[-1]}")[..., 0]


QUICK_DECODERS: Mapping[str, Callable[[pydicom.Dataset, tuple[int, int]], npt.NDArray[np.integer[Any]] | None]] = {
    RLE_SYNTAX: _unpacked,
    **{syntax: _unjpegged for syntax, plugin in PINNED_PLUGINS.items() if plugin == "gdcm"},
}
"""Those that take only frames that are in order."""


@contextmanager
def _warnings_raised() -> Iterator[None]:
    """Make pydicom's complaint about RLE segments that are too long an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


GUARDS: Mapping[str, Callable[[], AbstractContextManager[None]]] = {
    "gdcm": complaints_raised,
    "pydicom": _warnings_raised,
}
"""Decoders that say what is wrong in other ways than by raising."""


def _check_range(stored: npt.NDArray[np.integer[Any]], bits_stored: int) -> None:
    """Native high bits were masked; a codestream of more bits than the header's must still fit the header's."""
    is_signed = stored.dtype.kind == "i"
    low, high = (-(1 << bits_stored - 1), (1 << bits_stored - 1) - 1) if is_signed else (0, (1 << bits_stored) - 1)
    least, greatest = int(stored.min()), int(stored.max())
    if least < low or greatest > high:
        detail = f"stored values {least} to {greatest}, expected {low} to {high} in {bits_stored} bits"
        raise ReadingError(Reason.DECODE_FAILED, detail)


def _to_hu(stored: npt.NDArray[np.integer[Any]], elements: Elements) -> npt.NDArray[np.int32] | npt.NDArray[np.float32]:
    """Modality LUT of this instance (PS3.3 C.11.1); a missing rescale is the identity, which was warned about."""
    if elements.converted("ModalityLUTSequence"):
        return np.asarray(apply_modality_lut(stored, elements.dataset), dtype=np.float32)
    slope, intercept = _rescale(elements, "RescaleSlope", 1.0), _rescale(elements, "RescaleIntercept", 0.0)
    if slope == 0:
        raise ReadingError(Reason.UNSUPPORTED_PIXEL_FORMAT, "RescaleSlope is 0")
    whole = slope.is_integer() and intercept.is_integer()
    if whole and stored.dtype.itemsize <= 2 and max(abs(slope), abs(intercept)) < 2**14:
        scaled = (
            stored if slope == 1 else np.multiply(stored, np.int32(slope), dtype=np.int32)
        )  # it is 1 in nearly all CT
        values: npt.NDArray[np.int32] = np.add(scaled, np.int32(intercept), dtype=np.int32)
        return values
    return np.asarray(stored * np.float64(slope) + intercept, dtype=np.float32)


def _rescale(elements: Elements, keyword: str, default: float) -> float:
    value = numbers(elements, keyword, 1)
    if value is None and text(elements, keyword):
        raise ReadingError(Reason.UNSUPPORTED_PIXEL_FORMAT, f"{keyword} is not a number")
    return default if value is None else value[0]
