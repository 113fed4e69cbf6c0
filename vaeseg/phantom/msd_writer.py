"""Phantoms as a data set in the layout of the Medical Segmentation Decathlon."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from vaeseg.config import PhantomConfig
from vaeseg.phantom.patient import PhantomPatient, generate_patient, lung_mask
from vaeseg.phantom.writing import PatientEntry, Report, truth_of, write_json, write_nifti, write_patients

LABELS = {"0": "background", "1": "tumour"}
ORGAN_LABELS = {**LABELS, "2": "lungs"}
"""With the organ that the tumours lie in; a tumour's voxels keep their own label."""


def write_msd_dataset(
    directory: Path,
    config: PhantomConfig,
    workers: int = 1,
    report: Report = lambda n_slices: None,
    organ_labels: bool = False,
) -> list[PatientEntry]:
    """Write `dataset.json`, `imagesTr`, `labelsTr` and `phantom.json`.

    Args:
        directory: empty or not there yet.
        config: what to write; the transfer syntax plays no part.
        workers: processes that make patients.
        report: told the number of slices of each patient as it is finished.
        organ_labels: label the lungs too; images and truth are the same either way.

    Returns:
        The truth of each patient, as `phantom.json` has it.

    Raises:
        UsageError: the directory holds something already, or cannot be written.
    """
    write_patient = _write_patient_with_organs if organ_labels else _write_patient
    entries = write_patients(directory, config, write_patient, workers, report)
    training = [{"image": f"./{entry['image']}", "label": f"./{entry['label']}"} for entry in entries]
    write_json(
        directory / "dataset.json",
        {
            "name": "vaeseg phantom",
            "description": "Synthetic thorax CT with tumours; no patient was ever scanned",
            "reference": "vaeseg",
            "licence": "Apache-2.0",
            "release": "1.0",
            "tensorImageSize": "3D",
            "modality": {"0": "CT"},
            "labels": ORGAN_LABELS if organ_labels else LABELS,
            "numTraining": len(training),
            "numTest": 0,
            "training": training,
            "test": [],
        },
    )
    return entries


def _write_patient(directory: Path, index: int, config: PhantomConfig) -> PatientEntry:
    patient = generate_patient(config.seed, index, config)
    return _written(directory, patient, patient.label.astype(np.uint8), config)


def _write_patient_with_organs(directory: Path, index: int, config: PhantomConfig) -> PatientEntry:
    patient = generate_patient(config.seed, index, config)
    labels = 2 * lung_mask(config.seed, index, config).astype(np.uint8)
    labels[patient.label] = 1
    return _written(directory, patient, labels, config)


def _written(
    directory: Path, patient: PhantomPatient, labels: npt.NDArray[np.uint8], config: PhantomConfig
) -> PatientEntry:
    name = f"phantom_{patient.index + 1:04d}"
    image, label = f"imagesTr/{name}.nii.gz", f"labelsTr/{name}.nii.gz"
    write_nifti(directory / image, patient.volume_hu, patient.geometry)
    write_nifti(directory / label, labels, patient.geometry)
    return truth_of(patient, name, config.seed) | {"image": image, "label": label}
