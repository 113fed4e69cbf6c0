"""Slices to train on, read once from an MSD data set and kept in memory on the model grid.

N slices, S side of the model grid, K slices of one volume.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vaeseg.config import PreprocessingConfig, ReadingConfig
from vaeseg.errors import ReadingError, TrainingError
from vaeseg.geometry.affine import same_grid
from vaeseg.geometry.orientation import axial_geometry, axial_order
from vaeseg.geometry.resample import label_to_model_grid, to_model_grid
from vaeseg.io.msd import MsdItem
from vaeseg.io.nifti import read_label, read_nifti
from vaeseg.models.preprocessing import intensity_range
from vaeseg.records import BoolArray, IntArray, Reason

HASH_CHUNK_BYTES = 2**20


@dataclass(frozen=True, kw_only=True, eq=False)
class SliceSet:
    """All slices of a data set; sixteen bits a pixel and one bit a label pixel."""

    images_hu: npt.NDArray[np.int16]
    """(N, S, S)."""
    ranges_hu: npt.NDArray[np.float32]
    """(N, 2): HU that become intensity 0 and 1."""
    packed_labels: npt.NDArray[np.uint8] | None
    """(N, S, ceil(S / 8)), bits of a row packed as `np.packbits` does; None for training without labels."""
    subjects: tuple[str, ...]
    """Name of each subject; a file is a subject."""
    subject_of_slice: IntArray
    """(N,) index into `subjects`, ascending."""
    digest: str
    """SHA-256 over names and bytes of all files read, in order."""
    refused: tuple[tuple[str, str], ...]
    """Name and reason of every item left out."""

    def labels(self, indices: IntArray) -> BoolArray:
        """Labels of some slices: (len(indices), S, S) bool."""
        if self.packed_labels is None:
            raise ValueError("these slices have no labels")
        size = self.images_hu.shape[-1]
        return np.unpackbits(self.packed_labels[indices], axis=-1, count=size).astype(np.bool_)

    def holds_label(self) -> BoolArray:
        """Which slices hold a label: (N,) bool; all False without labels."""
        if self.packed_labels is None:
            return np.zeros(len(self.images_hu), dtype=np.bool_)
        return np.asarray(self.packed_labels.any(axis=(1, 2)))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Subject:
    images_hu: npt.NDArray[np.int16]
    range_hu: tuple[float, float]
    packed_labels: npt.NDArray[np.uint8] | None
    digest: str


def load_slices(
    items: Sequence[MsdItem],
    preprocessing: PreprocessingConfig,
    reading: ReadingConfig,
    with_labels: bool,
    on_item: Callable[[str], None] = lambda name: None,
) -> SliceSet:
    """Read every item and bring its slices to the model grid.

    Args:
        items: what to read.
        preprocessing: size of the model grid and intensity range.
        reading: bounds on a file.
        with_labels: take only items with a label, and keep the labels (any value above 0 is tumour).
        on_item: called with each item's name when it has been read or refused.

    Raises:
        TrainingError: no item has a label although it must, or none can be read.
    """
    wanted = [item for item in items if item.label is not None or not with_labels]
    if not wanted:
        raise TrainingError(f"none of {len(items)} volumes has a label")
    subjects: dict[str, _Subject] = {}
    refused: list[tuple[str, str]] = []
    for item in wanted:
        try:
            subjects[item.name] = _read_subject(item, preprocessing, reading, with_labels)
        except ReadingError as error:
            refused.append((item.name, str(error)))
        on_item(item.name)
    if not subjects:
        raise TrainingError(f"none of {len(wanted)} volumes can be read; the first is {refused[0][1]}")
    return _assemble(subjects, tuple(refused))


def _read_subject(
    item: MsdItem, preprocessing: PreprocessingConfig, reading: ReadingConfig, with_labels: bool
) -> _Subject:
    volume = read_nifti(item.image, reading)
    order, geometry = axial_order(volume.geometry), axial_geometry(volume.geometry)
    images = to_model_grid(order.to_axial(volume.volume_hu), geometry.spacing_mm, preprocessing.image_size)
    packed = None
    if with_labels and item.label is not None:
        label, label_geometry = read_label(item.label, reading)
        if not same_grid(label_geometry, volume.geometry):
            raise ReadingError(
                Reason.LABEL_GEOMETRY_MISMATCH,
                f"label grid {label_geometry.shape}, image grid {volume.geometry.shape}, or they lie apart",
            )
        label_slices = label_to_model_grid(order.to_axial(label), geometry.spacing_mm, preprocessing.image_size)
        packed = np.packbits(label_slices, axis=-1)
    return _Subject(
        images_hu=images,
        range_hu=intensity_range(images, preprocessing),
        packed_labels=packed,
        digest=_digest(item, with_labels),
    )


def _assemble(subjects: dict[str, _Subject], refused: tuple[tuple[str, str], ...]) -> SliceSet:
    parts = list(subjects.values())
    counts = [len(part.images_hu) for part in parts]
    labels = [part.packed_labels for part in parts if part.packed_labels is not None]
    described = "\n".join(f"{name} {part.digest}" for name, part in subjects.items())
    return SliceSet(
        images_hu=np.concatenate([part.images_hu for part in parts]),
        ranges_hu=np.repeat(np.array([part.range_hu for part in parts], dtype=np.float32), counts, axis=0),
        packed_labels=np.concatenate(labels) if labels else None,
        subjects=tuple(subjects),
        subject_of_slice=np.repeat(np.arange(len(parts)), counts),
        digest=hashlib.sha256(described.encode()).hexdigest(),
        refused=refused,
    )


def _digest(item: MsdItem, with_labels: bool) -> str:
    digest = hashlib.sha256()
    for path in (item.image, item.label if with_labels else None):
        if path is not None:
            _update(digest, path)
    return digest.hexdigest()


def _update(digest: hashlib._Hash, path: Path) -> None:
    with path.open("rb") as file:
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
