"""NIfTI files: read in world space with their CRC checked, written with exact affines and the same bytes every time."""

from __future__ import annotations

import gzip
import os
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import HeaderDataError

from vaeseg.config import ReadingConfig
from vaeseg.errors import ReadingError
from vaeseg.geometry.affine import geometry_from_ras, ras_from_ijk
from vaeseg.io.hounsfield import HuStack
from vaeseg.records import Reason, Volume, VolumeGeometry, Warn

GZIP_MAGIC = b"\x1f\x8b"
HEADER_BYTES = 540
"""NIfTI-2's; NIfTI-1's 348 are within."""
MM, UNKNOWN_UNIT = 2, 0
"""NIFTI_UNITS_MM and NIFTI_UNITS_UNKNOWN, which everyone takes for mm."""
AFFINE_TOLERANCE_MM = 0.1
"""qform and sform may place the volume's corners this far apart before it is worth a warning."""
COMPRESS_LEVEL = 4
"""Masks are mostly zeros: higher levels cost time and save nothing."""
DAMAGED = (OSError, EOFError, zlib.error)
"""gzip raises BadGzipFile, an OSError, for a wrong CRC or length."""


@dataclass(frozen=True, kw_only=True)
class NiftiHeader:
    """What the header claims, checked for what this project reads."""

    shape: tuple[int, int, int]
    """(K, J, I)."""
    geometry: VolumeGeometry
    warnings: tuple[Warn, ...]
    data_bytes: int
    """That the file must hold, header included."""
    header: Any
    """nibabel's own."""


def is_nifti(start: bytes) -> bool:
    """Whether uncompressed bytes begin a NIfTI header, single file or pair, either byte order."""
    return start[344:347] in (b"n+1", b"ni1") or start[4:7] in (b"n+2", b"ni2")


def read_start(path: Path, length: int = HEADER_BYTES) -> bytes:
    """The first bytes of a file, of a gzip file after decompression; less where it ends or is damaged.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(max(length, 2))
    if not start.startswith(GZIP_MAGIC):
        return start
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(start, length)
    except zlib.error:
        return start


def read_nifti_header(path: Path, config: ReadingConfig) -> NiftiHeader:
    """Read and judge a NIfTI header, before anything is allocated for its voxels.

    Raises:
        ReadingError: why it is not a volume that can be read.
    """
    try:
        start = read_start(path)
    except OSError as error:
        raise ReadingError(Reason.UNREADABLE_FILE, f"cannot be opened ({type(error).__name__})") from error
    return _judge_header(start, config)


def read_nifti(path: Path, config: ReadingConfig) -> Volume:
    """Read a NIfTI volume, values scaled, in its own voxel order.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        config: bounds.

    Returns:
        Volume with array (K, J, I) = nibabel's array transposed, and nibabel's affine.

    Raises:
        ReadingError: damaged, truncated, not three-dimensional, without an affine, NaN, RGB, too large.
    """
    header = read_nifti_header(path, config)
    raw = _read_whole(path, header.data_bytes)
    image = _image_class(raw).from_bytes(raw)
    stored = image.dataobj.get_unscaled().reshape(header.shape[::-1])
    stack = HuStack(header.shape)
    for k in range(header.shape[0]):
        stack.put(k, _scaled(stored[:, :, k].T, image.dataobj.slope, image.dataobj.inter))
    warnings = tuple(sorted({*header.warnings, *stack.warnings}))
    return Volume(volume_hu=stack.volume_hu, geometry=header.geometry, warnings=warnings)


def read_label(path: Path, config: ReadingConfig, label_value: int | None = None) -> tuple[Any, VolumeGeometry]:
    """Read a label volume as a mask.

    Args:
        path: NIfTI.
        config: bounds.
        label_value: which value is the structure; None takes every value above zero.

    Returns:
        (K, J, I) bool, and its geometry.

    Raises:
        ReadingError: as `read_nifti`.
    """
    volume = read_nifti(path, config)
    mask = volume.volume_hu > 0 if label_value is None else volume.volume_hu == label_value
    return mask, volume.geometry


def write_nifti(path: Path, array: npt.NDArray[Any], geometry: VolumeGeometry) -> bytes:
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
        data = gzip.compress(data, compresslevel=COMPRESS_LEVEL, mtime=0)
    write_atomically(path, data)
    return data


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is either whole or not there: temporary name, fsync, rename.

    Raises:
        OSError: nothing stays behind.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def _judge_header(start: bytes, config: ReadingConfig) -> NiftiHeader:
    header = _parse_header(start)
    shape = _three_dimensions(header)
    if np.prod(shape, dtype=object) > config.max_voxels:
        raise ReadingError(Reason.TOO_LARGE, f"the header claims {shape} voxels, allowed are {config.max_voxels}")
    _check_type(header)
    geometry = _geometry(header, (shape[2], shape[1], shape[0]))
    return NiftiHeader(
        shape=geometry.shape,
        geometry=geometry,
        warnings=_header_warnings(header, geometry),
        data_bytes=int(header["vox_offset"]) + int(np.prod(shape)) * header.get_data_dtype().itemsize,
        header=header,
    )


def _parse_header(start: bytes) -> Any:
    if start[344:347] == b"ni1" or start[4:7] == b"ni2":
        detail = "header and voxels are in two files, expected one .nii or .nii.gz"
        raise ReadingError(Reason.NIFTI_PAIR_UNSUPPORTED, detail)
    if not is_nifti(start):
        raise ReadingError(Reason.DAMAGED_FILE, "no NIfTI header in the first bytes")
    try:
        with np.errstate(all="ignore"):
            header_class = _image_class(start).header_class
            header = header_class(start[: header_class.sizeof_hdr], check=False)
            header.get_data_dtype(), header.get_data_shape(), float(header["vox_offset"])
    except (ValueError, KeyError, TypeError, HeaderDataError) as error:
        raise ReadingError(Reason.DAMAGED_FILE, f"damaged NIfTI header ({type(error).__name__})") from error
    if not 0 <= float(header["vox_offset"]) < 2**31:
        raise ReadingError(Reason.DAMAGED_FILE, "damaged NIfTI header (vox_offset)")
    return header


def _image_class(raw: bytes) -> Any:
    return nib.Nifti2Image if raw[4:7] == b"n+2" else nib.Nifti1Image


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
        with np.errstate(all="ignore"):
            return geometry_from_ras(shape, header.get_best_affine())
    except (ValueError, HeaderDataError, np.linalg.LinAlgError) as error:
        raise ReadingError(Reason.SINGULAR_AFFINE, "the affine is singular or not finite") from error


def _header_warnings(header: Any, geometry: VolumeGeometry) -> tuple[Warn, ...]:
    if int(header["sform_code"]) == 0 or int(header["qform_code"]) == 0:
        return ()
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=np.float64)
    corners[:, :3] *= np.array(geometry.shape[::-1]) - 1
    try:
        qform = header.get_qform()
    except (ValueError, HeaderDataError):
        return (Warn.QFORM_SFORM_DIFFER,)
    apart = np.abs(corners @ (qform - header.get_sform()).T).max()
    return (Warn.QFORM_SFORM_DIFFER,) if apart > AFFINE_TOLERANCE_MM else ()


def _read_whole(path: Path, data_bytes: int) -> bytes:
    """All bytes of the volume, decompressed to the very end so that gzip checks length and CRC."""
    try:
        with path.open("rb") as probe:
            compressed = probe.read(2) == GZIP_MAGIC
        with gzip.open(path, "rb") if compressed else path.open("rb") as file:
            raw = file.read(data_bytes)
            _read_to_end(file)
    except DAMAGED as error:
        raise ReadingError(
            Reason.DAMAGED_FILE, f"cannot be decompressed to its end ({type(error).__name__})"
        ) from error
    if len(raw) < data_bytes:
        raise ReadingError(Reason.TRUNCATED_PIXEL_DATA, f"{len(raw)} bytes, expected {data_bytes}")
    return raw


def _read_to_end(file: BinaryIO | gzip.GzipFile) -> None:
    while file.read(2**20):
        pass


def _scaled(values: npt.NDArray[Any], slope: float, inter: float) -> npt.NDArray[Any]:
    """Scaled values; integers stay integers where the scaling is the identity."""
    if slope == 1 and inter == 0:
        return values
    return np.asarray(values.astype(np.float64) * slope + inter, dtype=np.float32)


def _is_sheared(geometry: VolumeGeometry) -> bool:
    directions = geometry.lps_from_kji[:3, :3] / np.array(geometry.spacing_mm)
    return bool(np.abs(directions.T @ directions - np.eye(3)).max() > 1e-5)
