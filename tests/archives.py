"""Changes to a copy of the phantom archive, as a share makes them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pydicom


def compressed_slice(archive: Path, study: Path) -> Path:
    """Copy an archive's series to `study` with the first one compressed; returns a slice of that, to be damaged."""
    shutil.copytree(archive / "dicom", study)
    victim = sorted(study.iterdir())[0]
    for path in victim.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
        dataset.save_as(path)
    return sorted(victim.rglob("*.dcm"))[3]
