"""Tiny CT series and NIfTI volumes whose every voxel can be checked by hand.

Stored values are ``k * 256 + j * 16 + i`` unless a test gives its own; HU are 1024 less. Slices are 12 rows of 16
columns, so that a swapped axis shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian

SHAPE = (6, 12, 16)
SPACING_MM = (2.5, 0.75, 0.5)
ORIGIN_LPS = (-40.0, -30.0, 100.0)
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SERIES_UID = "1.2.826.0.1.3680043.2.1125.1"
STUDY_UID = "1.2.826.0.1.3680043.2.1125.2"
CANARIES = {
    "PatientName": "CANARYNAME^Jane",
    "PatientID": "CANARYID77",
    "PatientBirthDate": "19010203",
    "InstitutionName": "CANARYHOSPITAL",
    "ReferringPhysicianName": "CANARYDOCTOR",
    "PatientComments": "CANARYCOMMENT",
}
"""What no output may contain."""

Overrides = Mapping[str, Any]
"""DICOM keywords and their values; None deletes the element."""


@dataclass(frozen=True)
class CtSeries:
    """A series as it was written."""

    paths: list[Path]
    """In the order of the slices."""
    stored: npt.NDArray[Any]
    """(K, J, I) stored values."""
    affine_ras: npt.NDArray[np.float64]
    """As nibabel would have it, for axial slices at the default place."""

    @property
    def hu(self) -> npt.NDArray[Any]:
        return self.stored.astype(np.int32) - 1024


def stored_values(shape: tuple[int, int, int] = SHAPE) -> npt.NDArray[np.uint16]:
    """(K, J, I) uint16, every value once, less than 4096 for up to 16 slices."""
    k, j, i = np.indices(shape)
    return (k * 256 + j * 16 + i).astype(np.uint16)


def axial_affine_ras(spacing_mm: tuple[float, float, float] = SPACING_MM) -> npt.NDArray[np.float64]:
    """nibabel's affine of an upright axial stack whose first pixel is at ORIGIN_LPS."""
    affine = np.diag([-spacing_mm[2], -spacing_mm[1], spacing_mm[0], 1.0])
    affine[:3, 3] = (-ORIGIN_LPS[0], -ORIGIN_LPS[1], ORIGIN_LPS[2])
    return affine


def ct_slice(stored: npt.NDArray[Any], k: int, **overrides: Any) -> FileDataset:
    """One uncompressed CT instance at its place in an axial stack; keywords override elements, None deletes them."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = f"{SERIES_UID}.{k + 1}"
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    _identify(dataset, k)
    _place(dataset, k)
    set_pixels(dataset, stored)
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = "1", "-1024", "HU"
    override(dataset, overrides)
    return dataset


def write_series(
    directory: Path,
    stored: npt.NDArray[Any] | None = None,
    *,
    per_slice: Mapping[int, Overrides] | None = None,
    names: Sequence[str] | None = None,
    encode: Callable[[FileDataset], object] | None = None,
    **overrides: Any,
) -> CtSeries:
    """Write a CT series, one file a slice.

    Args:
        directory: made if missing.
        stored: (K, J, I); `stored_values()` if None.
        per_slice: overrides of single slices.
        names: file names in the order of the slices.
        encode: changes a finished data set in place, for instance by compressing it.
        overrides: of every slice.
    """
    directory.mkdir(parents=True, exist_ok=True)
    stored = stored_values() if stored is None else stored
    paths = []
    for k, plane in enumerate(stored):
        dataset = ct_slice(plane, k, **{**overrides, **(per_slice or {}).get(k, {})})
        if encode is not None:
            encode(dataset)
        paths.append(directory / (names[k] if names else f"{k:03d}.dcm"))
        save(dataset, paths[-1])
    return CtSeries(paths, stored, axial_affine_ras())


def save(dataset: FileDataset, path: Path) -> None:
    """Write a data set as its file meta says, swapping pixels for big endian."""
    if dataset.file_meta.TransferSyntaxUID == ExplicitVRBigEndian and dataset.BitsAllocated == 16:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    with pydicom.config.disable_value_validation():
        pydicom.dcmwrite(path, dataset, enforce_file_format=False)


def set_pixels(dataset: Dataset, stored: npt.NDArray[Any]) -> None:
    """Native pixels of (J, I) stored values, with the elements that describe them."""
    bits = 8 * stored.dtype.itemsize
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    data = stored.tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"


def override(dataset: Dataset, overrides: Overrides) -> None:
    """Set elements, of the file meta where they belong there; None deletes."""
    with pydicom.config.disable_value_validation():
        for keyword, value in overrides.items():
            tag = tag_for_keyword(keyword)
            assert tag is not None
            target = dataset.file_meta if tag >> 16 == 2 else dataset
            target.pop(tag, None)
            if value is not None:
                setattr(target, keyword, value)


def write_nifti(
    path: Path,
    array: npt.NDArray[Any],
    affine: npt.NDArray[Any] | None = None,
    *,
    kind: type[Any] = nibabel.Nifti1Image,
    **fields: Any,
) -> npt.NDArray[Any]:
    """Write an (I, J, K) array as NIfTI with sform and qform codes 1; `fields` are set in the raw header afterwards."""
    image = kind(array, np.diag([-0.5, -0.75, 2.5, 1.0]) if affine is None else affine, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(image.affine, code=1)
    image.set_qform(image.affine, code=1, strip_shears=True)
    nibabel.save(image, path)
    if fields:
        patch_nifti(path, **fields)
    return array


def patch_nifti(path: Path, **fields: Any) -> None:
    """Set fields of the header of an uncompressed NIfTI file, whatever they then mean."""
    raw = bytearray(path.read_bytes())
    header_class = nibabel.Nifti2Header if raw[4:7] == b"n+2" else nibabel.Nifti1Header
    header = header_class(bytes(raw[: header_class.sizeof_hdr]), check=False)
    for name, value in fields.items():
        header[name] = value
    raw[: header_class.sizeof_hdr] = header.binaryblock
    path.write_bytes(raw)


def _identify(dataset: Dataset, k: int) -> None:
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, f"{SERIES_UID}.{k + 1}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = STUDY_UID, SERIES_UID
    dataset.FrameOfReferenceUID = f"{STUDY_UID}.3"
    dataset.StudyDate, dataset.StudyTime, dataset.AccessionNumber = "20200101", "120000", ""
    dataset.Modality, dataset.Manufacturer = "CT", "vaeseg tests"
    dataset.SeriesNumber, dataset.AcquisitionNumber, dataset.InstanceNumber = 3, 1, k + 1
    for keyword, value in CANARIES.items():
        setattr(dataset, keyword, value)


def _place(dataset: Dataset, k: int) -> None:
    dataset.ImagePositionPatient = [*ORIGIN_LPS[:2], ORIGIN_LPS[2] + k * SPACING_MM[0]]
    dataset.ImageOrientationPatient = list(AXIAL)
    dataset.PixelSpacing = list(SPACING_MM[1:])
    dataset.SliceThickness = "5.0"
