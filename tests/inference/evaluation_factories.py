"""Volumes in which a fake model predicts exactly what is brighter than water, so that every figure can be counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

AXIAL = np.diag([-1.0, -1.0, 3.0, 1.0])
"""nibabel's affine of slices 3 mm apart with pixels of 1 mm, in DICOM's usual order."""


def box(*where: slice, shape: tuple[int, int, int] = (4, 64, 64)) -> np.ndarray:
    """(K, J, I) bool, True in a box."""
    mask = np.zeros(shape, dtype=bool)
    mask[where] = True
    return mask


def write_subject(
    root: Path,
    name: str,
    label: np.ndarray,
    predicted: np.ndarray,
    affine: np.ndarray = AXIAL,
    *,
    image_dtype: Any = np.int16,
    label_dtype: Any = np.uint8,
) -> None:
    """Write a volume whose HU are 40 where `predicted` is True and -800 elsewhere; arrays are (K, J, I)."""
    image = np.where(predicted, 40, -800) if np.dtype(image_dtype).kind != "u" else np.where(predicted, 200, 10)
    for folder, array, dtype in (("imagesTr", image, image_dtype), ("labelsTr", label, label_dtype)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        nifti = nibabel.Nifti1Image(array.astype(dtype).transpose(2, 1, 0), affine)
        nifti.header.set_xyzt_units("mm")
        nibabel.save(nifti, root / folder / f"{name}.nii.gz")


def list_subjects(root: Path, *names: str, without_label: tuple[str, ...] = ()) -> Path:
    """Write `dataset.json` naming these subjects."""
    entries: list[Any] = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
    entries += [f"./imagesTr/{name}.nii.gz" for name in without_label]
    (root / "dataset.json").write_text(json.dumps({"training": entries}))
    return root
