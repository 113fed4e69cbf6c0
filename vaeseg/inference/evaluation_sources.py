"""What a model can be evaluated on, one subject in memory at a time.

K slices of one subject, J x I pixels of its own resolution, S side of the model grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from vaeseg.config import PreprocessingConfig, ReadingConfig
from vaeseg.errors import ReadingError, UsageError
from vaeseg.evaluation.subjects import Grid, SlicePlaces, whole_volume
from vaeseg.geometry.orientation import axial_geometry, axial_order
from vaeseg.geometry.resample import to_model_grid
from vaeseg.io.dataset import DataSet
from vaeseg.io.identity import content_token
from vaeseg.io.labels import read_label_on_grid
from vaeseg.io.msd import MsdItem, read_msd
from vaeseg.io.nifti import read_image
from vaeseg.io.splits import SplitKind
from vaeseg.paths import printable
from vaeseg.records import BoolArray, IntArray, VolumeGeometry, Warn

Part = Literal["train", "dev", "test", "all"]

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
    grid: Grid | None
    """Size of its voxels; None where it lies on the model grid already, whose pixels are of unknown size."""
    places: SlicePlaces
    """Of K slices."""
    warnings: tuple[Warn, ...] = ()
    """What was noticed when image and label were read."""


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
        self.location = printable(root.resolve().name)

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
        volume = read_image(item.image, self._reading)
        label = read_label_on_grid(item.label, volume.geometry, self._reading, self._organ)
        order, geometry = axial_order(volume.geometry), axial_geometry(volume.geometry)
        image = order.to_axial(volume.volume_hu)
        return Subject(
            name=item.name,
            tokens=(content_token(image),),
            model_slices=to_model_grid(image, geometry.spacing_mm, preprocessing.image_size),
            image=image,
            label=order.to_axial(label.mask),
            grid=grid_of(geometry),
            places=whole_volume(item.name, len(image)),
            warnings=(*volume.warnings, *label.warnings),
        )


class DataSource:
    """Subjects of a prepared data set, at its own resolution, which is that of the model grid.

    Args:
        data: with labels.
        part: whom to evaluate; `all` whatever the split.
        kind: unit of the split. Of a split by slice, a subject has those of its slices that lie in the part.
        fold: which of the splits of that kind.

    Raises:
        UsageError: the data set has no labels, no such split, or no slice in that part.
        StoreError: the data set is damaged.
    """

    def __init__(self, data: DataSet, part: Part = "test", kind: SplitKind = "subject", fold: int = 0) -> None:
        if not data.index.has_labels:
            raise UsageError(f"the data set {data.location} has no labels to compare with")
        self._data = data
        self._slices = _slices_of_part(data, part, kind, fold)
        self._subjects = {data.index.subjects[n]: int(n) for n in np.unique(self._subject_of(self._slices))}
        name = printable(PurePosixPath(data.location).name)
        self.location = f"{name} ({part}{'' if part == 'all' else f' by {kind}'})"

    def __len__(self) -> int:
        return len(self._subjects)

    def subjects(self, preprocessing: PreprocessingConfig) -> Iterator[Subject]:
        """Every subject of the part, in the order of the data set.

        Raises:
            UsageError: the data were prepared otherwise than the model's.
            StoreError: a shard is damaged.
        """
        check_preprocessing(self._data.manifest.preprocessing, preprocessing)
        for name in self._subjects:
            yield self.subject(name, preprocessing)

    def subject(self, name: str, preprocessing: PreprocessingConfig) -> Subject:
        """One subject once more.

        Raises:
            StoreError: a shard is damaged.
        """
        number = self._subjects[name]
        chosen = self._slices[self._subject_of(self._slices) == number]
        slices, index = self._data.read(chosen), self._data.index
        return Subject(
            name=name,
            tokens=index.tokens[number],
            model_slices=slices.images,
            image=slices.images,
            label=slices.labels(np.arange(len(chosen))),
            grid=None,
            places=SlicePlaces(
                series=tuple(index.series[n] for n in index.series_of_slice[chosen]),
                slice_index=index.slice_of_series[chosen],
            ),
        )

    def _subject_of(self, slices: IntArray) -> IntArray:
        return self._data.index.subject_of_slice[slices]


def check_preprocessing(of_data: PreprocessingConfig, of_model: PreprocessingConfig) -> None:
    """Refuse data that were prepared otherwise than the model's; the threshold is no part of preparing.

    Raises:
        UsageError: naming both.
    """
    if _decisive(of_data) != _decisive(of_model):
        raise UsageError(
            f"the data set was prepared with {_described(of_data)}, the model was trained with {_described(of_model)}: "
            "prepare the data as the model's, or evaluate with --msd-dir"
        )


def _slices_of_part(data: DataSet, part: Part, kind: SplitKind, fold: int) -> IntArray:
    if part == "all":
        return np.arange(len(data.index))
    splits = data.splits[kind]
    if not 0 <= fold < len(splits):
        raise UsageError(f"the data set {data.location} has {len(splits)} splits by {kind}, so none of number {fold}")
    slices: IntArray = getattr(splits[fold], part)
    if len(slices) == 0:
        raise UsageError(f"the {part} part of split {fold} by {kind} of {data.location} is empty")
    return slices


def _decisive(preprocessing: PreprocessingConfig) -> PreprocessingConfig:
    """What decides the pixels of a data set: without the threshold, and without a window that is not used."""
    default = PreprocessingConfig()
    same = replace(preprocessing, threshold=default.threshold)
    if preprocessing.intensity == "window":
        return same
    return replace(same, window_low_hu=default.window_low_hu, window_high_hu=default.window_high_hu)


def _described(preprocessing: PreprocessingConfig) -> str:
    size, intensity = preprocessing.image_size, str(preprocessing.intensity)
    if intensity == "window":
        intensity += f":{preprocessing.window_low_hu:g}:{preprocessing.window_high_hu:g}"
    return f"{size} x {size} pixels, {intensity}"


def grid_of(geometry: VolumeGeometry) -> Grid:
    """Sizes of the voxels of a grid in axial order, right for oblique and sheared ones too."""
    return Grid(spacing_mm=geometry.spacing_mm, pixel_mm2=geometry.pixel_area_mm2, voxel_mm3=geometry.voxel_volume_mm3)
