"""From one DICOM instance to Hounsfield units: pinned decoders, strict lengths, each instance's own rescale."""

from __future__ import annotations

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
from vaeseg.io.codestream import check_codestream
from vaeseg.io.dicom import (
    PARSE_ERRORS,
    check_inflated_size,
    integer,
    numbers,
    starts_with_preamble,
    text,
    transfer_syntax,
)
from vaeseg.io.headers import DEFLATED_SYNTAX, NATIVE_SYNTAXES, PINNED_PLUGINS
from vaeseg.io.manifest import SliceFile
from vaeseg.records import Reason, Warn

UNCOMPRESSED_SYNTAXES = NATIVE_SYNTAXES | {DEFLATED_SYNTAX}

InstanceHu = tuple[npt.NDArray[np.int32] | npt.NDArray[np.float32], frozenset[Warn]]


def read_instance_hu(root: Path, file: SliceFile, shape: tuple[int, int], config: ReadingConfig) -> InstanceHu:
    """Decode one instance and apply its own rescale.

    Args:
        root: the directory scanned.
        file: what the index recorded of this instance; the file must still agree.
        shape: (rows, columns).
        config: bounds.

    Returns:
        (J, I) Hounsfield units, int32 where slope and intercept are whole numbers, else float32; and what was noticed.

    Raises:
        ReadingError: the file changed, its pixels are truncated or missing, or the pinned decoder refuses them.
    """
    dataset = _open(root / file.path, config)
    _check_unchanged(dataset, file, shape)
    stored, warnings = _stored_values(dataset, shape)
    return _to_hu(stored, dataset), warnings


def _open(path: Path, config: ReadingConfig) -> pydicom.Dataset:
    try:
        with path.open("rb") as stream:
            check_inflated_size(stream, config)
            return pydicom.dcmread(stream, force=not starts_with_preamble(stream))
    except FileNotFoundError as error:
        raise ReadingError(Reason.CHANGED_WHILE_READING, "a file of the series is gone") from error
    except PermissionError as error:
        raise ReadingError(Reason.UNREADABLE_FILE, "permission denied") from error
    except PARSE_ERRORS as error:
        raise ReadingError(Reason.UNREADABLE_INSTANCE, f"not a readable DICOM file ({type(error).__name__})") from error


def _check_unchanged(dataset: pydicom.Dataset, file: SliceFile, shape: tuple[int, int]) -> None:
    position = numbers(dataset, "ImagePositionPatient", 3)
    found = (integer(dataset, "Rows", 0), integer(dataset, "Columns", 0))
    if position != file.position or found != shape:
        raise ReadingError(Reason.CHANGED_WHILE_READING, "position or size differs from what the index recorded")


def _stored_values(
    dataset: pydicom.Dataset, shape: tuple[int, int]
) -> tuple[npt.NDArray[np.integer[Any]], frozenset[Warn]]:
    syntax = transfer_syntax(dataset)
    if "PixelData" not in dataset:
        raise ReadingError(Reason.TRUNCATED_PIXEL_DATA, "the file ends within its pixel data")
    if syntax not in PINNED_PLUGINS:
        raise ReadingError(Reason.UNSUPPORTED_TRANSFER_SYNTAX, f"no decoder for transfer syntax {syntax}")
    try:
        warnings = _check_length(dataset, syntax, shape)
        stored = _decode(dataset, syntax)
    except (RuntimeError, *PARSE_ERRORS) as error:
        detail = f"the decoder refused the pixels ({type(error).__name__})"
        raise ReadingError(Reason.DECODE_FAILED, detail) from error
    if stored.shape != shape:
        raise ReadingError(Reason.DECODE_FAILED, f"decoded to {stored.shape}, expected {shape}")
    return stored, warnings


def _check_length(dataset: pydicom.Dataset, syntax: str, shape: tuple[int, int]) -> frozenset[Warn]:
    if syntax not in UNCOMPRESSED_SYNTAXES:
        for frame in generate_frames(dataset.PixelData, number_of_frames=1):
            check_codestream(frame, syntax, shape)
        return frozenset()
    expected = shape[0] * shape[1] * dataset.BitsAllocated // 8
    found = len(dataset.PixelData)
    if found < expected:
        raise ReadingError(Reason.TRUNCATED_PIXEL_DATA, f"{found} bytes of pixels, expected {expected}")
    return frozenset({Warn.EXCESS_PIXEL_DATA}) if found > expected + expected % 2 else frozenset()


def _decode(dataset: pydicom.Dataset, syntax: str) -> npt.NDArray[np.integer[Any]]:
    """Stored values as they are, MONOCHROME1 too: inverting would turn HU round."""
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    stored, _ = decoder.as_array(dataset, raw=True, index=0, decoding_plugin=PINNED_PLUGINS[syntax])
    return stored


def _to_hu(
    stored: npt.NDArray[np.integer[Any]], dataset: pydicom.Dataset
) -> npt.NDArray[np.int32] | npt.NDArray[np.float32]:
    """Modality LUT of this instance (PS3.3 C.11.1); a missing rescale is the identity, which was warned about."""
    if "ModalityLUTSequence" in dataset:
        return np.asarray(apply_modality_lut(stored, dataset), dtype=np.float32)
    slope, intercept = _rescale(dataset, "RescaleSlope", 1.0), _rescale(dataset, "RescaleIntercept", 0.0)
    if slope == 0:
        raise ReadingError(Reason.UNSUPPORTED_PIXEL_FORMAT, "RescaleSlope is 0")
    whole = slope.is_integer() and intercept.is_integer()
    if whole and stored.dtype.itemsize <= 2 and max(abs(slope), abs(intercept)) < 2**14:
        return stored.astype(np.int32) * np.int32(slope) + np.int32(intercept)
    return np.asarray(stored * np.float64(slope) + intercept, dtype=np.float32)


def _rescale(dataset: pydicom.Dataset, keyword: str, default: float) -> float:
    value = numbers(dataset, keyword, 1)
    if value is None and text(dataset, keyword) not in ("", "None"):
        raise ReadingError(Reason.UNSUPPORTED_PIXEL_FORMAT, f"{keyword} is not a number")
    return default if value is None else value[0]
