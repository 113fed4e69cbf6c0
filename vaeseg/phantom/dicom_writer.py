"""Phantoms as DICOM CT series, one study folder a patient, with their labels as NIfTI.

Each file is a CT Image (PS3.3 A.3) with every attribute that its modules require. File names tell nothing about the
order of slices, as in an archive.
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from pydicom.valuerep import format_number_as_ds

from vaeseg.canonical import as_json
from vaeseg.config import PhantomConfig
from vaeseg.phantom.patient import PhantomPatient, generate_patient
from vaeseg.phantom.writing import PatientEntry, Report, truth_of, write_nifti, write_patients, write_whole

DICOM_FOLDER = "dicom"
LABEL_FOLDER = "labels"

RESCALE_INTERCEPT = -1024
"""Stored values are unsigned 12 bits."""

ENCODERS: dict[str, tuple[UID, str]] = {
    "jpegls": (JPEGLSLossless, "pyjpegls"),
    "j2k": (JPEG2000Lossless, "pylibjpeg"),
    "rle": (RLELossless, "pydicom"),
}
"""Lossless transfer syntaxes by the name they are asked for, each with the one plug-in that writes it."""


def write_dicom_archive(
    directory: Path, config: PhantomConfig, workers: int = 1, report: Report = lambda n_slices: None
) -> list[PatientEntry]:
    """Write `dicom/<patient>/*.dcm`, `labels/<series_instance_uid>.nii.gz` and `phantom.json`.

    Args:
        directory: empty or not there yet.
        config: what to write and in which transfer syntax; UIDs follow from it, so that the same patient has the
            same UIDs whatever the transfer syntax and the number of patients.
        workers: processes that make patients.
        report: told the number of slices of each patient as it is finished.

    Returns:
        The truth of each patient, as `phantom.json` has it.

    Raises:
        UsageError: the directory holds something already, or cannot be written.
        StoreError: a file cannot be written.
    """
    return write_patients(directory, config, _write_patient, workers, report)


def _write_patient(directory: Path, index: int, config: PhantomConfig) -> PatientEntry:
    patient = generate_patient(config.seed, index, config)
    name = f"PHANTOM-{index + 1:04d}"
    series = _series_header(patient, name, config)
    names = np.random.default_rng([config.seed, index]).permutation(len(patient.volume_hu))
    folder = directory / DICOM_FOLDER / name
    for k, number in enumerate(names):
        instance = _instance(series, patient, k, _uid(config, index, "instance", k))
        write_whole(folder / f"IM{number:05d}.dcm", _encoded(instance, config))
    label = f"{LABEL_FOLDER}/{series.SeriesInstanceUID}.nii.gz"
    write_nifti(directory / label, patient.label.astype(np.uint8), patient.geometry)
    return truth_of(patient, name, config.seed) | {
        "study_instance_uid": str(series.StudyInstanceUID),
        "series_instance_uid": str(series.SeriesInstanceUID),
        "dicom": f"{DICOM_FOLDER}/{name}",
        "label": label,
    }


def _uid(config: PhantomConfig, index: int, *level: str | int) -> UID:
    """A UID that depends on the patient alone."""
    same = replace(config, n_patients=1, transfer_syntax="explicit")
    return generate_uid(entropy_srcs=[as_json(same), str(index), *map(str, level)])


def _series_header(patient: PhantomPatient, name: str, config: PhantomConfig) -> Dataset:
    """What all slices of a series share: patient, study, series, frame of reference, equipment, acquisition."""
    header = Dataset()
    header.SpecificCharacterSet = "ISO_IR 192"
    _add_patient_and_study(header, patient, name, config)
    header.Modality = "CT"
    header.SeriesInstanceUID = _uid(config, patient.index, "series")
    header.SeriesNumber = 2
    header.SeriesDate = header.StudyDate
    header.SeriesTime = "080500"
    header.SeriesDescription = "Synthetic thorax, no patient"
    header.BodyPartExamined = "CHEST"
    header.PatientPosition = "HFS"
    header.FrameOfReferenceUID = _uid(config, patient.index, "frame of reference")
    header.PositionReferenceIndicator = ""
    header.Manufacturer = "vaeseg"
    header.ManufacturerModelName = "phantom"
    _add_acquisition(header, patient)
    _add_pixel_description(header, patient)
    return header


def _add_patient_and_study(header: Dataset, patient: PhantomPatient, name: str, config: PhantomConfig) -> None:
    header.PatientName = f"Phantom^{patient.index + 1:04d}"
    header.PatientID = name
    header.PatientBirthDate = ""
    header.PatientSex = "O"
    header.StudyInstanceUID = _uid(config, patient.index, "study")
    header.StudyDate = f"2026{1 + patient.index // 28 % 12:02d}{1 + patient.index % 28:02d}"
    header.StudyTime = "080000"
    header.ReferringPhysicianName = ""
    header.StudyID = str(patient.index + 1)
    header.AccessionNumber = ""
    header.StudyDescription = "Synthetic thorax CT"


def _add_acquisition(header: Dataset, patient: PhantomPatient) -> None:
    scan = patient.acquisition
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    header.AcquisitionNumber = 1
    header.AcquisitionDate = header.StudyDate
    header.AcquisitionTime = "080300"
    header.ContentDate = header.StudyDate
    header.ContentTime = "080400"
    header.KVP = scan.kvp
    header.XRayTubeCurrent = scan.tube_current_ma
    header.ConvolutionKernel = scan.kernel.name
    header.ReconstructionDiameter = _ds(scan.field_of_view_mm)
    header.GantryDetectorTilt = 0
    header.BurnedInAnnotation = "NO"
    header.LossyImageCompression = "00"


def _add_pixel_description(header: Dataset, patient: PhantomPatient) -> None:
    n_slices, rows, columns = patient.geometry.shape
    slice_mm, row_mm, column_mm = patient.geometry.spacing_mm
    header.ImagesInAcquisition = n_slices
    header.Rows, header.Columns = rows, columns
    header.PixelSpacing = [_ds(row_mm), _ds(column_mm)]
    header.SliceThickness = _ds(slice_mm)
    header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 12, 11
    header.PixelRepresentation = 0
    header.RescaleIntercept = RESCALE_INTERCEPT
    header.RescaleSlope = 1
    header.RescaleType = "HU"
    header.WindowCenter, header.WindowWidth = [40, -600], [400, 1500]
    header.WindowCenterWidthExplanation = ["SOFT TISSUE", "LUNG"]


def _instance(series: Dataset, patient: PhantomPatient, k: int, uid: UID) -> Dataset:
    """One slice; the first of the series is the lowest."""
    instance = Dataset()
    instance.update(series)
    position = patient.geometry.lps_from_kji @ np.array([k, 0.0, 0.0, 1.0])
    instance.SOPClassUID = CTImageStorage
    instance.SOPInstanceUID = uid
    instance.InstanceNumber = k + 1
    instance.ImagePositionPatient = [_ds(float(value)) for value in position[:3]]
    instance.SliceLocation = _ds(float(position[2]))
    instance.PixelData = _stored(patient.volume_hu[k]).tobytes()
    instance["PixelData"].VR = "OW"
    instance.file_meta = FileMetaDataset()
    instance.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return instance


def _stored(slice_hu: npt.NDArray[np.int16]) -> npt.NDArray[np.uint16]:
    return (slice_hu - np.int16(RESCALE_INTERCEPT)).astype("<u2")


def _encoded(instance: Dataset, config: PhantomConfig) -> bytes:
    """The bytes of a DICOM file in the transfer syntax asked for."""
    if config.transfer_syntax != "explicit":
        syntax, plugin = ENCODERS[config.transfer_syntax]
        instance.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
    stream = io.BytesIO()
    instance.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _ds(value: float) -> str:
    """A decimal string of at most 16 characters, as exact as they allow (PS3.5 6.2)."""
    return format_number_as_ds(value)
