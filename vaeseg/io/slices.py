"""Slices on the model grid as a prepared data set holds them: pixels, and everything but pixels.

N slices, S side of the model grid, K slices of one volume.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vaeseg.records import BoolArray, IntArray

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


@dataclass(frozen=True, kw_only=True, eq=False)
class SliceSet:
    """Some slices in memory: one or two bytes a pixel, and one bit a label pixel."""

    images: Pixels
    """(N, S, S) intensity in 1/255 (uint8) or 1/65535 (uint16)."""
    packed_labels: npt.NDArray[np.uint8] | None
    """(N, S, ceil(S / 8)), bits of a row packed as `np.packbits` does; None without labels."""

    def __len__(self) -> int:
        return len(self.images)

    def labels(self, indices: IntArray) -> BoolArray:
        """Labels of some slices: (len(indices), S, S) bool.

        Raises:
            ValueError: these slices have no labels.
        """
        if self.packed_labels is None:
            raise ValueError("these slices have no labels")
        size = self.images.shape[-1]
        return np.unpackbits(self.packed_labels[indices], axis=-1, count=size).astype(np.bool_)

    def take(self, indices: IntArray) -> SliceSet:
        """Some of the slices, in the order given; a slice may be taken twice."""
        labels = None if self.packed_labels is None else self.packed_labels[indices]
        return SliceSet(images=self.images[indices], packed_labels=labels)


@dataclass(frozen=True, kw_only=True, eq=False)
class SliceIndex:
    """Whose each slice is and what it holds; everything but pixels, for all N slices of a data set."""

    subjects: tuple[str, ...]
    """Name of each subject: a file of an MSD data set, a pseudonym of an archive."""
    subject_of_slice: IntArray
    """(N,) index into `subjects`, ascending."""
    slice_of_subject: IntArray
    """(N,) running number within its subject, from 0."""
    series: tuple[str, ...]
    """Name of each volume: an item of an MSD data set, a series of an archive."""
    series_of_slice: IntArray
    """(N,) index into `series`, ascending."""
    slice_of_series: IntArray
    """(N,) number within its volume, from 0 at the feet."""
    spacing_mm: npt.NDArray[np.float32]
    """(N, 3) of the volume the slice came from: slice, row, column in axial order."""
    tumour_pixels: npt.NDArray[np.int32]
    """(N,) label pixels on the model grid; zeros without labels."""
    has_labels: bool
    tokens: tuple[tuple[str, ...], ...]
    """Per subject: what it is recognised by (`io.identity`)."""

    def __len__(self) -> int:
        return len(self.subject_of_slice)


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedVolume:
    """One volume as rows of a data set."""

    subject: str
    """Whose it is; a subject may have several volumes."""
    series: str
    """Which volume: a series UID, or the name of an MSD item."""
    tokens: tuple[str, ...]
    slices: SliceSet
    """All K slices in axial order."""
    spacing_mm: tuple[float, float, float]
    """Slice, row, column in axial order."""
    warnings: tuple[str, ...] = ()
    """Of `records.Warn`: what was noticed when volume and label were read; not written."""
