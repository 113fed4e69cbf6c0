"""What both layouts share: an empty directory, one patient at a time, files that appear whole, and the truth file."""

from __future__ import annotations

import gzip
import io
import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt

from vaeseg.config import PhantomConfig
from vaeseg.durable import write_file
from vaeseg.errors import UsageError, VaesegError
from vaeseg.geometry.affine import ras_from_ijk
from vaeseg.phantom.patient import PhantomPatient
from vaeseg.records import MM3_PER_ML, VolumeGeometry

TRUTH_NAME = "phantom.json"
"""Written last: an archive without it is unfinished."""

GZIP_LEVEL = 3
"""Noise does not compress: higher levels take three times as long for one per cent."""

PatientEntry = dict[str, Any]
WritePatient = Callable[[Path, int, PhantomConfig], PatientEntry]
Report = Callable[[int], None]


def write_patients(
    directory: Path, config: PhantomConfig, write_patient: WritePatient, workers: int, report: Report
) -> list[PatientEntry]:
    """Write every patient, then the truth file.

    Args:
        directory: made if missing.
        config: what to write.
        write_patient: makes and writes one patient; has to be importable by name, as it runs in worker processes.
        workers: processes, each holding one patient at a time; 1 stays in this process.
        report: told the number of slices of each patient as it is finished.

    Returns:
        The truth of each patient in order.

    Raises:
        UsageError: the directory holds something already, or is not a directory that can be written.
        StoreError: a file cannot be written.
        VaesegError: a worker process died.
    """
    prepare_directory(directory)
    entries = []
    for entry in _each_patient(directory, config, write_patient, workers):
        entries.append(entry)
        report(int(entry["n_slices"]))
    write_json(directory / TRUTH_NAME, {"config": asdict(config), "patients": entries})
    return entries


def prepare_directory(directory: Path) -> None:
    """Make sure that a directory exists and is empty.

    Raises:
        UsageError: it is not empty, not a directory, or cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        occupied = next(directory.iterdir(), None) is not None
    except OSError as error:
        raise UsageError(f"{directory} cannot be used as a directory: {error.strerror}") from error
    if occupied:
        raise UsageError(f"{directory} is not empty; name a new directory, nothing was written")


def truth_of(patient: PhantomPatient, name: str, seed: int) -> PatientEntry:
    """What the truth file says about a patient; writers add how to find its files."""
    return {
        "patient": name,
        "seed": seed,
        "index": patient.index,
        "n_slices": patient.geometry.shape[0],
        "shape": list(patient.geometry.shape),
        "spacing_mm": list(patient.geometry.spacing_mm),
        "n_slices_with_tumour": int(patient.label.any(axis=(1, 2)).sum()),
        "tumour_volume_ml": int(patient.label.sum()) * patient.geometry.voxel_volume_mm3 / MM3_PER_ML,
        "tumours": [asdict(tumour) for tumour in patient.tumours],
    }


def write_nifti(path: Path, array: npt.NDArray[Any], geometry: VolumeGeometry) -> None:
    """Write a (K, J, I) array as gzipped NIfTI; the file's array is (I, J, K), its affine RAS.

    The gzip header holds neither time nor name, so that the same array gives the same bytes.
    """
    image = nibabel.Nifti1Image(np.ascontiguousarray(array.transpose(2, 1, 0)), ras_from_ijk(geometry))
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(1, 0)
    compressed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=compressed, compresslevel=GZIP_LEVEL, mtime=0) as stream:
        stream.write(image.to_bytes())
    write_whole(path, compressed.getvalue())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON that people read."""
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is either complete or absent under its name.

    Raises:
        StoreError: it cannot be written; a full disk, most often.
    """
    write_file(path, content, str(path), synced=False)


def _each_patient(
    directory: Path, config: PhantomConfig, write_patient: WritePatient, workers: int
) -> Iterator[PatientEntry]:
    indices = range(config.n_patients)
    if workers == 1 or config.n_patients == 1:
        for index in indices:
            yield write_patient(directory, index, config)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, config.n_patients), mp_context=context) as pool:
        try:
            yield from pool.map(partial(_call, write_patient, directory, config), indices)
        except BrokenProcessPool as error:
            raise VaesegError("a worker process died, perhaps for want of memory; try fewer --workers") from error


def _call(write_patient: WritePatient, directory: Path, config: PhantomConfig, index: int) -> PatientEntry:
    return write_patient(directory, index, config)
