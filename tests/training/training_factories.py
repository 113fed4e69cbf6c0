"""Tiny slice sets and requests whose answers can be worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np

from vaeseg.config import ArchitectureConfig, PreprocessingConfig, TrainingConfig
from vaeseg.training.run import TrainingRequest
from vaeseg.training.slices import SliceSet

SMALL = ArchitectureConfig(kind="spatial", image_size=64, base_width=4, latent_channels=2)
TINY = TrainingConfig(
    epochs=4, batch_size=8, learning_rate=3e-3, freeze_encoder=False, dice_weight=1.0, kl_weight=0.01, seed=3
)


def slice_set(n_subjects: int = 10, slices_each: int = 3, size: int = 64, with_labels: bool = True) -> SliceSet:
    """Bright squares on a dark ground; slice 0 of each subject has none. Label = square."""
    rng = np.random.default_rng(5)
    labels = np.zeros((n_subjects * slices_each, size, size), dtype=bool)
    for n in range(len(labels)):
        if n % slices_each:
            top, left = rng.integers(4, size - 24, 2)
            labels[n, top : top + 20, left : left + 20] = True
    noise = rng.normal(0, 30, labels.shape)
    images = np.where(labels, 40, -800) + noise
    return SliceSet(
        images_hu=images.astype(np.int16),
        ranges_hu=np.tile(np.array([-1000, 400], dtype=np.float32), (len(labels), 1)),
        packed_labels=np.packbits(labels, axis=-1) if with_labels else None,
        subjects=tuple(f"s{n}" for n in range(n_subjects)),
        subject_of_slice=np.repeat(np.arange(n_subjects), slices_each),
        digest="d" * 64,
        refused=(),
    )


def write_msd(root: Path, n_subjects: int = 5, slices_each: int = 4, size: int = 64) -> Path:
    """The same as an MSD data set: files of one subject each, slices along the last axis."""
    slices = slice_set(n_subjects, slices_each, size)
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for n, name in enumerate(slices.subjects):
        chosen = np.flatnonzero(slices.subject_of_slice == n)
        for folder, array in (("imagesTr", slices.images_hu[chosen]), ("labelsTr", slices.labels(chosen))):
            image = nibabel.Nifti1Image(array.astype(np.int16).transpose(2, 1, 0), np.diag([-1.0, -1.0, 3.0, 1.0]))
            image.header.set_xyzt_units("mm")
            nibabel.save(image, root / folder / f"{name}.nii.gz")
    entries = [{"image": f"./imagesTr/{s}.nii.gz", "label": f"./labelsTr/{s}.nii.gz"} for s in slices.subjects]
    (root / "dataset.json").write_text(json.dumps({"training": entries, "test": []}))
    return root


def request(msd_dir: Path, output: Path, **changes: object) -> TrainingRequest:
    """A decoder trained from nothing in seconds."""
    values: dict[str, object] = {
        "stage": "decoder",
        "msd_dir": msd_dir,
        "output": output,
        "training": TINY,
        "architecture": SMALL,
        "preprocessing": PreprocessingConfig(image_size=64),
    }
    return TrainingRequest(**{**values, **changes})  # type: ignore[arg-type]
