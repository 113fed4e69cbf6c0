"""What a model can be evaluated on, one subject in memory at a time.

K slices of one subject, J x I pixels of its own resolution, S side of the model grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from vaeseg.config import PreprocessingConfig, ReadingConfig
from vaeseg.errors import ReadingError
from vaeseg.evaluation.subjects import Grid
from vaeseg.geometry.orientation import axial_geometry, axial_order
from vaeseg.geometry.resample import to_model_grid
from vaeseg.io.identity import content_token
from vaeseg.io.labels import read_label_on_grid
from vaeseg.io.msd import MsdItem, read_msd
from vaeseg.io.nifti import read_nifti
from vaeseg.records import BoolArray, IntArray, VolumeGeometry

NO_LABEL = "no_label"
"""Reason of an image that `dataset.json` gives no label to."""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """An item that cannot be evaluated."""

    name: str
    reason: str
    """From `records.Reason`, or `NO_LABEL`."""
    detail: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """One subject, ready to be segmented and compared; axial order."""

    name: str
    tokens: tuple[str, ...]
    """What it is recognised by among the subjects that a model was trained on."""
    model_slices: npt.NDArray[Any]
    """(K, S, S) on the model grid: int16 HU, or unsigned intensity that was made with the model's preprocessing."""
    image: npt.NDArray[Any]
    """(K, J, I) real, as it is shown."""
    label: BoolArray
    """(K, J, I)."""
    grid: Grid
    slice_index: IntArray
    """(K,) number of each slice within the subject."""


class Source(Protocol):
    """A set of subjects."""

    @property
    def location(self) -> str:
        """Name for the head of a report; not a path."""

    def __len__(self) -> int:
        """Items, refused ones included."""

    def subjects(self, preprocessing: PreprocessingConfig) -> Iterator[Subject | Refused]:
        """Every item in order, one at a time.

        Raises:
            UsageError: the model's preprocessing is not that of the data.
        """

    def subject(self, name: str, preprocessing: PreprocessingConfig) -> Subject:
        """One subject once more."""


class MsdSource:
    """The labelled volumes of a directory in MSD layout, at their native resolution.

    Args:
        root: directory with `dataset.json`.
        organ: label value that counts; None for every value above zero.
        reading: bounds on a file.

    Raises:
        UsageError: no such data set.
    """

    def __init__(self, root: Path, organ: int | None = None, reading: ReadingConfig | None = None) -> None:
        self._items = {item.name: item for item in read_msd(root)}
        self._organ = organ
        self._reading = reading or ReadingConfig()
        self.location = root.resolve().name

    def __len__(self) -> int:
        return len(self._items)

    def subjects(self, preprocessing: PreprocessingConfig) -> Iterator[Subject | Refused]:
        """Every volume in the order of `dataset.json`; damaged and unlabelled ones with their reason."""
        for item in self._items.values():
            try:
                yield self._read(item, preprocessing)
            except ReadingError as error:
                yield Refused(name=item.name, reason=str(error.reason), detail=error.detail)

    def subject(self, name: str, preprocessing: PreprocessingConfig) -> Subject:
        """One volume once more.

        Raises:
            ReadingError: it cannot be read any longer.
        """
        return self._read(self._items[name], preprocessing)

    def _read(self, item: MsdItem, preprocessing: PreprocessingConfig) -> Subject:
        if item.label is None:
            raise ReadingError(NO_LABEL, "dataset.json names no label for it")
        volume = read_nifti(item.image, self._reading)
        label = read_label_on_grid(item.label, volume.geometry, self._reading, self._organ).mask
        order, geometry = axial_order(volume.geometry), axial_geometry(volume.geometry)
        image = order.to_axial(volume.volume_hu)
        return Subject(
            name=item.name,
            tokens=(content_token(image),),
            model_slices=to_model_grid(image, geometry.spacing_mm, preprocessing.image_size),
            image=image,
            label=order.to_axial(label),
            grid=grid_of(geometry),
            slice_index=np.arange(len(image)),
        )


def grid_of(geometry: VolumeGeometry) -> Grid:
    """Sizes of the voxels of a grid in axial order, right for oblique and sheared ones too."""
    in_plane = np.cross(geometry.lps_from_kji[:3, 1], geometry.lps_from_kji[:3, 2])
    return Grid(
        spacing_mm=geometry.spacing_mm,
        pixel_mm2=float(np.linalg.norm(in_plane)),
        voxel_mm3=geometry.voxel_volume_mm3,
    )
