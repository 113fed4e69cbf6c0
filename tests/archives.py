"""The phantom archive as a submission, and changes to a copy of it, as a share makes them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pydicom

from vaeseg.config import RunConfig, SegmentationConfig
from vaeseg.distributed.submit import Submission


def compressed_slice(archive: Path, study: Path) -> Path:
    """Copy an archive's series to `study` with the first one compressed; returns a slice of that, to be damaged."""
    shutil.copytree(archive / "dicom", study)
    victim = sorted(study.iterdir())[0]
    for path in victim.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
        dataset.save_as(path)
    return sorted(victim.rglob("*.dcm"))[3]


def whole_archive(archive: Path, model_path: Path, store_root: Path) -> Submission:
    """Every series of a phantom archive with its labels, masks and previews."""
    return Submission(
        study_dir=archive / "dicom",
        store_root=store_root,
        database_url=None,
        model="random",
        config=RunConfig(
            segmentation=SegmentationConfig(output_types=("nifti", "png"), with_labels=True),
            model_path=str(model_path),
            label_dir=str(archive / "labels"),
        ),
    )
