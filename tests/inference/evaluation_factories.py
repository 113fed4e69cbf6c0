"""Volumes in which a fake model predicts exactly what is brighter than water, so that every figure can be counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from vaeseg.config import ArchitectureConfig, PreprocessingConfig
from vaeseg.models.checkpoint import save_checkpoint
from vaeseg.models.provenance import Provenance
from vaeseg.models.segmenter import Segmenter

PREPROCESSING = PreprocessingConfig(image_size=64)

AXIAL = np.diag([-1.0, -1.0, 3.0, 1.0])
"""nibabel's affine of slices 3 mm apart with pixels of 1 mm, in DICOM's usual order."""


class BrightIsTumour:
    """Stands for a model: probability 0.9 from 0 HU, 0.1 below."""

    def __init__(self, checkpoint: object, device: str, precision: str) -> None:
        self.preprocessing, self.computes_in = PREPROCESSING, "float32"

    def probabilities(self, slices_hu: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
        wanted = slices_hu if chosen is None else slices_hu[chosen]
        return np.where(wanted >= 0, 0.9, 0.1).astype(np.float32)

    def probabilities_of_intensity(self, images: np.ndarray) -> np.ndarray:
        bound = np.iinfo(images.dtype).max * 1000 / 1400
        return np.where(images >= bound, 0.9, 0.1).astype(np.float32)


def tiny_model(directory: Path) -> Path:
    """A model file, whose network `BrightIsTumour` takes the place of."""
    path = directory / "m.safetensors"
    network = Segmenter(ArchitectureConfig(kind="spatial", image_size=64, base_width=2, latent_channels=2))
    save_checkpoint(path, network, PREPROCESSING, Provenance(data_digest="", split_digest=""))
    return path


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
