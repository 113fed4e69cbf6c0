"""NIfTI files: read in world space with their CRC checked, written with exact affines and the same bytes every time.

Compressed bytes are the same on the same hardware; another processor may pack the same voxels otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from vaeseg.config import ReadingConfig
from vaeseg.durable import write_atomically
from vaeseg.errors import ReadingError
from vaeseg.geometry.affine import ras_from_ijk
from vaeseg.io.gzipped import DAMAGED, GZIP_FORMAT, read_whole
from vaeseg.io.hounsfield import INT16_MAX, HuStack, check_levels, is_above_int16
from vaeseg.io.nifti_header import NiftiHeader, read_nifti_header
from vaeseg.paths import AnyPath
from vaeseg.records import BoolArray, Reason, Volume, VolumeGeometry, Warn

COMPRESS_LEVEL = 1
"""Of ISA-L: a mask takes a thirtieth of zlib's time for the same size, and higher levels save nothing."""
MAX_LABEL_FRACTION = 0.01
"""How far a label's value may be from a whole number: floats and scaled bytes are."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelVolume:
    """One structure of a label file."""

    mask: BoolArray
    """(K, J, I)."""
    geometry: VolumeGeometry
    values: tuple[int, int]
    """Least and greatest value in the mask; zeros where it is empty."""


def read_nifti(path: AnyPath, config: ReadingConfig) -> Volume:
    """Read a NIfTI volume, values scaled, in its own voxel order.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        config: bounds.

    Returns:
        Volume with array (K, J, I) = nibabel's array transposed, and nibabel's affine.

    Raises:
        ReadingError: damaged, truncated, not three-dimensional, without an affine, NaN, RGB, too large; or the disk
            gave up.
    """
    header = read_nifti_header(path, config)
    raw, noticed = _voxel_bytes(path, header, config)
    stored = np.frombuffer(raw, header.dtype, count=math.prod(header.shape), offset=header.offset)
    stack = HuStack(header.shape)
    for k, plane in enumerate(stored.reshape(header.shape)):
        stack.put(k, _scaled(plane, header.slope, header.inter))
    warnings = tuple(sorted({*header.warnings, *noticed, *stack.warnings}))
    return Volume(volume_hu=stack.volume_hu, geometry=header.geometry, warnings=warnings)


def read_image(path: AnyPath, config: ReadingConfig) -> Volume:
    """Read a NIfTI volume that is to be segmented or learned from, and no label.

    Raises:
        ReadingError: as `read_nifti`, and ``not_hounsfield_units``.
    """
    volume = read_nifti(path, config)
    check_levels(volume, allow_whole=False)
    if is_above_int16(volume):
        detail = f"values up to {volume.volume_hu.max():g}, allowed are {INT16_MAX}"
        raise ReadingError(Reason.NOT_HOUNSFIELD_UNITS, detail)
    return volume


def read_label(path: AnyPath, config: ReadingConfig, label_value: int | None = None) -> LabelVolume:
    """Read a label volume as a mask.

    Args:
        path: NIfTI.
        config: bounds.
        label_value: which value is the structure; None takes every value above zero.

    Raises:
        ReadingError: ``fractional_label``, or as `read_nifti`.
    """
    volume = read_nifti(path, config)
    values = _whole(volume.volume_hu)
    mask = values > 0 if label_value is None else values == label_value
    taken = values[mask]
    least, greatest = (int(taken.min()), int(taken.max())) if taken.size else (0, 0)
    return LabelVolume(mask=mask, geometry=volume.geometry, values=(least, greatest))


def _whole(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Label values as the whole numbers that they are but for rounding.

    Others come of interpolation, or are probabilities: what is above 0 would be larger than the structure, and between
    0 and 2 there would be a 1 that nobody drew.
    """
    if values.dtype.kind != "f":
        return values
    whole: npt.NDArray[Any] = np.rint(values)
    off = np.abs(values - whole)
    if off.max() > MAX_LABEL_FRACTION:
        detail = (
            f"a value of {values.flat[off.argmax()]:g}, where labels are whole numbers: save the mask that is meant"
        )
        raise ReadingError(Reason.FRACTIONAL_LABEL, detail)
    return whole


def write_nifti(path: AnyPath, array: npt.NDArray[Any], geometry: VolumeGeometry) -> bytes:
    """Write an array on a grid as NIfTI-1, gzip if the name says so, atomically and the same bytes every time.

    Args:
        path: ends in ``.nii`` or ``.nii.gz``; its directory exists.
        array: (K, J, I) uint8, int16 or float32.
        geometry: its grid.

    Returns:
        The bytes written.

    Raises:
        OSError: cannot be written; no partial file stays at `path`.
    """
    image = nib.Nifti1Image(np.asarray(array.T, order="F"), ras_from_ijk(geometry))
    image.header.set_xyzt_units("mm")
    image.set_sform(image.affine, code="scanner")
    if not _is_sheared(geometry):
        image.set_qform(image.affine, code="scanner")
    data: bytes = image.to_bytes()
    if path.name.endswith(".gz"):
        data = isal_zlib.compress(data, COMPRESS_LEVEL, GZIP_FORMAT)
    write_atomically(path, data)
    return data


def _voxel_bytes(path: AnyPath, header: NiftiHeader, config: ReadingConfig) -> tuple[bytearray, frozenset[Warn]]:
    """Header and voxels, decompressed to the very end so that gzip's length and CRC are checked."""
    try:
        raw, has_more = read_whole(path, header.data_bytes, config.max_header_bytes)
    except OSError as error:
        raise ReadingError(Reason.UNREADABLE_FILE, f"cannot be read ({type(error).__name__})") from error
    except DAMAGED as error:
        detail = f"cannot be decompressed to its end ({type(error).__name__})"
        raise ReadingError(Reason.DAMAGED_FILE, detail) from error
    except ValueError as error:
        raise ReadingError(Reason.TOO_LARGE, str(error)) from error
    if len(raw) < header.data_bytes:
        raise ReadingError(Reason.TRUNCATED_PIXEL_DATA, f"{len(raw)} bytes, expected {header.data_bytes}")
    return raw, frozenset({Warn.EXCESS_PIXEL_DATA}) if has_more else frozenset()


def _scaled(values: npt.NDArray[Any], slope: float, inter: float) -> npt.NDArray[Any]:
    """Scaled values; integers stay integers where the scaling is the identity."""
    if slope == 1 and inter == 0:
        return values
    return values.astype(np.float64) * slope + inter


def _is_sheared(geometry: VolumeGeometry) -> bool:
    directions = geometry.lps_from_kji[:3, :3] / np.array(geometry.spacing_mm)
    return bool(np.abs(directions.T @ directions - np.eye(3)).max() > 1e-5)
