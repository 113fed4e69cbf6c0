"""Phantoms as a data set in the layout of the Medical Segmentation Decathlon."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vaeseg.config import PhantomConfig
from vaeseg.phantom.patient import generate_patient
from vaeseg.phantom.writing import PatientEntry, Report, truth_of, write_json, write_nifti, write_patients


def write_msd_dataset(
    directory: Path, config: PhantomConfig, workers: int = 1, report: Report = lambda n_slices: None
) -> list[PatientEntry]:
    """Write `dataset.json`, `imagesTr`, `labelsTr` and `phantom.json`.

    Args:
        directory: empty or not there yet.
        config: what to write; the transfer syntax plays no part.
        workers: processes that make patients.
        report: told the number of slices of each patient as it is finished.

    Returns:
        The truth of each patient, as `phantom.json` has it.

    Raises:
        UsageError: the directory holds something already, or cannot be written.
    """
    entries = write_patients(directory, config, _write_patient, workers, report)
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
            "labels": {"0": "background", "1": "tumour"},
            "numTraining": len(training),
            "numTest": 0,
            "training": training,
            "test": [],
        },
    )
    return entries


def _write_patient(directory: Path, index: int, config: PhantomConfig) -> PatientEntry:
    patient = generate_patient(config.seed, index, config)
    name = f"phantom_{index + 1:04d}"
    image, label = f"imagesTr/{name}.nii.gz", f"labelsTr/{name}.nii.gz"
    write_nifti(directory / image, patient.volume_hu, patient.geometry)
    write_nifti(directory / label, patient.label.astype(np.uint8), patient.geometry)
    return truth_of(patient, name, config.seed) | {"image": image, "label": label}
