"""NIfTI headers: what they claim, checked for what this project reads, before anything is allocated for voxels."""

from __future__ import annotations

import logging
import math
import os
import stat
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from vaeseg.config import ReadingConfig
from vaeseg.errors import ReadingError
from vaeseg.geometry.affine import SPACING_RANGE_MM, geometry_from_ras
from vaeseg.io.gzipped import read_start
from vaeseg.paths import AnyPath
from vaeseg.records import Reason, VolumeGeometry, Warn
from vaeseg.remote import RemotePath

HEADER_BYTES = 540
"""NIfTI-2's; NIfTI-1's 348 are within."""
MM, UNKNOWN_UNIT = 2, 0
"""NIFTI_UNITS_MM and NIFTI_UNITS_UNKNOWN, which everyone takes for mm."""
AFFINE_TOLERANCE_MM = 0.1
"""qform and sform may place the volume's corners this far apart before it is worth a warning."""
PIXDIM_TOLERANCE = 0.01
"""Of the spacing, that pixdim may differ by."""
SINGLE_FILE_OFFSET = {b"n+1": 352, b"n+2": 544}
"""Least vox_offset of a single file, by magic: header and four bytes of extension flags."""
SILENT = logging.Logger("vaeseg.io.nifti.header", logging.CRITICAL + 1)
"""nibabel reports the header fields that it mends to a logger of the caller's."""


@dataclass(frozen=True, kw_only=True)
class NiftiHeader:
    """What the header claims, checked for what this project reads."""

    shape: tuple[int, int, int]
    """(K, J, I)."""
    geometry: VolumeGeometry
    warnings: tuple[Warn, ...]
    data_bytes: int
    """That the file must hold, header included."""
    offset: int
    """Of the voxels in the file."""
    dtype: np.dtype[Any]
    """Of the voxels in the file, byte order included."""
    slope: float
    inter: float
    """value = stored * slope + inter."""


def is_nifti(start: bytes) -> bool:
    """Whether uncompressed bytes begin a NIfTI header, single file or pair, either byte order."""
    return start[344:347] in (b"n+1", b"ni1") or start[4:7] in (b"n+2", b"ni2")


def read_nifti_header(path: AnyPath, config: ReadingConfig) -> NiftiHeader:
    """Read and judge a NIfTI header, before anything is allocated for its voxels.

    Raises:
        ReadingError: why it is not a volume that can be read.
    """
    try:
        if not isinstance(path, RemotePath):
            _check_file(path.stat())
        start = read_start(path, HEADER_BYTES)
    except OSError as error:
        raise ReadingError(Reason.UNREADABLE_FILE, f"cannot be opened ({type(error).__name__})") from error
    with np.errstate(all="ignore"):
        return _judge_header(start, config)


def _check_file(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):  # opening a pipe may never end
        raise ReadingError(Reason.NOT_A_REGULAR_FILE, "a directory, device, pipe or socket")
    if status.st_size == 0:
        raise ReadingError(Reason.EMPTY_FILE, "0 bytes")


def _judge_header(start: bytes, config: ReadingConfig) -> NiftiHeader:
    header = _parse_header(start, config)
    shape = _three_dimensions(header)
    if math.prod(shape) > config.max_voxels:
        raise ReadingError(Reason.TOO_LARGE, f"the header claims {shape} voxels, allowed are {config.max_voxels}")
    _check_type(header)
    geometry = _geometry(header, (shape[2], shape[1], shape[0]))
    slope, inter = _scaling(header)
    offset, dtype = int(header["vox_offset"]), header.get_data_dtype()
    return NiftiHeader(
        shape=geometry.shape,
        geometry=geometry,
        warnings=_header_warnings(header, geometry),
        data_bytes=offset + math.prod(shape) * dtype.itemsize,
        offset=offset,
        dtype=dtype,
        slope=slope,
        inter=inter,
    )


def _parse_header(start: bytes, config: ReadingConfig) -> Any:
    if start[344:347] == b"ni1" or start[4:7] == b"ni2":
        detail = "header and voxels are in two files, expected one .nii or .nii.gz"
        raise ReadingError(Reason.NIFTI_PAIR_UNSUPPORTED, detail)
    if not is_nifti(start):
        raise ReadingError(Reason.DAMAGED_FILE, "no NIfTI header in the first bytes")
    try:
        header = _mended_header(start)
    except (ValueError, KeyError, TypeError, HeaderDataError, WrapStructError) as error:
        raise ReadingError(Reason.DAMAGED_FILE, f"damaged NIfTI header ({type(error).__name__})") from error
    least = SINGLE_FILE_OFFSET[bytes(header["magic"])[:3]]
    if not least <= float(header["vox_offset"]) <= config.max_header_bytes:
        detail = f"voxels begin at byte {float(header['vox_offset']):g}, expected {least} or a little more"
        raise ReadingError(Reason.DAMAGED_FILE, detail)
    return header


def _mended_header(start: bytes) -> Any:
    """The header as `nibabel.load` has it, small faults such as negative spacing mended."""
    header_class = nib.Nifti2Header if start[4:7] == b"n+2" else nib.Nifti1Header
    header = header_class(start[: header_class.sizeof_hdr], check=False)
    has_zero_spacing = bool((np.asarray(header["pixdim"][1:4]) == 0).any())
    header.check_fix(logger=SILENT)
    if has_zero_spacing and int(header["sform_code"]) == 0:
        raise HeaderDataError("qform with a spacing of zero, which nibabel would take for 1 mm")
    header.get_data_dtype(), header.get_data_shape()
    return header


def _three_dimensions(header: Any) -> tuple[int, int, int]:
    """(I, J, K); trailing dimensions of length one are no dimensions."""
    shape = tuple(int(length) for length in header.get_data_shape())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 1:
        raise ReadingError(Reason.NOT_THREE_DIMENSIONAL, f"shape {shape}, expected three dimensions")
    return (shape[0], shape[1], shape[2])


def _check_type(header: Any) -> None:
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise ReadingError(Reason.UNSUPPORTED_PIXEL_FORMAT, f"voxels of type {header.get_value_label('datatype')}")
    units = int(header["xyzt_units"]) & 7
    if units not in (MM, UNKNOWN_UNIT):
        raise ReadingError(Reason.UNSUPPORTED_UNITS, f"spatial unit code {units}, expected mm")


def _geometry(header: Any, shape: tuple[int, int, int]) -> VolumeGeometry:
    if int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
        raise ReadingError(
            Reason.NO_AFFINE, "neither sform nor qform is set, so the volume has no place in the patient"
        )
    try:
        geometry = geometry_from_ras(shape, header.get_best_affine())
    except (ValueError, HeaderDataError, np.linalg.LinAlgError) as error:
        raise ReadingError(Reason.SINGULAR_AFFINE, "the affine is singular or not finite") from error
    low, high = SPACING_RANGE_MM
    if not all(low <= spacing <= high for spacing in geometry.spacing_mm):
        spacing = " x ".join(f"{length:.4g}" for length in geometry.spacing_mm)
        raise ReadingError(Reason.INVALID_GEOMETRY, f"voxels of {spacing} mm, expected {low:g} to {high:g} mm")
    return geometry


def _scaling(header: Any) -> tuple[float, float]:
    """(slope, inter); a slope of 0, NaN or infinity means none, as nibabel has it."""
    try:
        slope, inter = header.get_slope_inter()
    except HeaderDataError as error:
        raise ReadingError(Reason.DAMAGED_FILE, "scl_inter is not finite") from error
    return (1.0 if slope is None else float(slope), 0.0 if inter is None else float(inter))


def _header_warnings(header: Any, geometry: VolumeGeometry) -> tuple[Warn, ...]:
    if int(header["sform_code"]) == 0:
        return ()
    if int(header["qform_code"]) == 0:
        is_like = np.allclose(header["pixdim"][3:0:-1], geometry.spacing_mm, rtol=PIXDIM_TOLERANCE)
        return () if is_like else (Warn.PIXDIM_DIFFERS,)
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=np.float64)
    corners[:, :3] *= np.array(geometry.shape[::-1]) - 1
    try:
        qform = header.get_qform()
    except (ValueError, HeaderDataError):
        return (Warn.QFORM_SFORM_DIFFER,)
    apart = np.abs(corners @ (qform - header.get_sform()).T).max()
    return (Warn.QFORM_SFORM_DIFFER,) if apart > AFFINE_TOLERANCE_MM else ()
