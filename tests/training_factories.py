"""Tiny slice sets with an answer that a small network learns in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from dataset_factories import write_data_set

from vaeseg.config import ArchitectureConfig, PreprocessingConfig, TrainingConfig
from vaeseg.io.slices import PreparedVolume, SliceIndex, SliceSet
from vaeseg.io.splits import Split
from vaeseg.records import BoolArray
from vaeseg.training.run import TrainingRequest

SMALL = ArchitectureConfig(kind="spatial", image_size=64, base_width=4, latent_channels=2)
TINY = TrainingConfig(
    epochs=4,
    batch_size=8,
    learning_rate=3e-3,
    freeze_encoder=False,
    dice_weight=1.0,
    kl_weight=0.01,
    seed=3,
    precision="fp32",
)
PREPROCESSING = PreprocessingConfig(image_size=64)


def squares(n_subjects: int = 10, slices_each: int = 3, size: int = 64) -> tuple[np.ndarray, BoolArray]:
    """Intensities and labels (N, S, S): bright squares on a dark ground; slice 0 of each subject has none."""
    rng = np.random.default_rng(5)
    labels = np.zeros((n_subjects * slices_each, size, size), dtype=bool)
    for n in range(len(labels)):
        if n % slices_each:
            top, left = rng.integers(4, size - 24, 2)
            labels[n, top : top + 20, left : left + 20] = True
    return np.where(labels, 0.75, 0.15) + rng.normal(0, 0.02, labels.shape), labels


def slice_set(n_subjects: int = 10, slices_each: int = 3, bits: int = 8, with_labels: bool = True) -> SliceSet:
    """The squares in memory; label = square."""
    images, labels = squares(n_subjects, slices_each)
    kind = np.uint8 if bits == 8 else np.uint16
    return SliceSet(
        images=(images * (2**bits - 1)).round().astype(kind),
        packed_labels=np.packbits(labels, axis=-1) if with_labels else None,
    )


def slice_index(n_subjects: int = 10, slices_each: int = 3, with_labels: bool = True) -> SliceIndex:
    """Who is in which slice of `slice_set`."""
    _, labels = squares(n_subjects, slices_each)
    return SliceIndex(
        subjects=tuple(f"s{n}" for n in range(n_subjects)),
        subject_of_slice=np.repeat(np.arange(n_subjects), slices_each),
        slice_of_subject=np.tile(np.arange(slices_each), n_subjects),
        series=tuple(f"s{n}" for n in range(n_subjects)),
        series_of_slice=np.repeat(np.arange(n_subjects), slices_each),
        slice_of_series=np.tile(np.arange(slices_each), n_subjects),
        spacing_mm=np.ones((len(labels), 3), dtype=np.float32),
        tumour_pixels=labels.sum((1, 2)).astype(np.int32) * with_labels,
        has_labels=with_labels,
        tokens=tuple((f"t{n}",) for n in range(n_subjects)),
    )


def split() -> Split:
    """The first eight subjects of `slice_set`, the ninth, and the tenth."""
    return Split(kind="subject", train=np.arange(24), dev=np.arange(24, 27), test=np.arange(27, 30), digest="s")


def write_squares(root: Path, n_subjects: int = 10, slices_each: int = 3, with_labels: bool = True) -> str:
    """The squares as a prepared data set, a volume a subject; returns its location."""
    slices = slice_set(n_subjects, slices_each, with_labels=with_labels)
    volumes = [
        PreparedVolume(
            subject=f"s{n}",
            series=f"s{n}",
            tokens=(f"t{n}",),
            slices=slices.take(np.arange(n * slices_each, (n + 1) * slices_each)),
            spacing_mm=(3.0, 1.0, 1.0),
        )
        for n in range(n_subjects)
    ]
    write_data_set(root, volumes, with_labels=with_labels, preprocessing=PREPROCESSING)
    return str(root)


def request(data: str, output: Path, **changes: object) -> TrainingRequest:
    """A decoder trained from nothing in seconds."""
    values: dict[str, object] = {
        "stage": "decoder",
        "data": data,
        "output": output,
        "training": TINY,
        "architecture": SMALL,
    }
    return TrainingRequest(**{**values, **changes})  # type: ignore[arg-type]
