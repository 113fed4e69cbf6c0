"""Finding the label of a series, and bringing it onto the series' grid.

A label is a NIfTI file named after its series: ``<series_instance_uid>.nii.gz`` (or ``.nii``); for a NIfTI series it
may have the name of its image, as in MSD's ``imagesTr`` and ``labelsTr``. nnU-Net's ``_0000`` behind it is ignored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from vaeseg.config import ReadingConfig
from vaeseg.errors import ReadingError, StoreError
from vaeseg.geometry.affine import same_grid
from vaeseg.geometry.resample import label_in_grid, share_inside
from vaeseg.io.nifti import read_label
from vaeseg.paths import AnyPath
from vaeseg.records import BoolArray, IntArray, Reason, VolumeGeometry, Warn

MIN_SHARE_INSIDE = 0.99
"""Less of a label inside its image, and the two do not belong together."""
MIN_SHARE_COVERED = 0.5
"""A label of as many rows, columns and slices as its image that reaches over less of it was given a wrong affine, such
as a unit matrix, which shrinks it into a corner."""
LATTICE_POINTS = 9
"""Along each axis, by which that is found out."""


@dataclass(frozen=True, kw_only=True)
class LabelOnGrid:
    """A label on the grid of its series."""

    mask: BoolArray
    """(K, J, I) of the series."""
    values: tuple[int, int]
    """Least and greatest value in the label; zeros where it is empty."""
    warnings: tuple[Warn, ...]


def find_labels(label_dir: AnyPath, names: Mapping[str, Sequence[str]]) -> tuple[dict[str, AnyPath], int]:
    """Match label files to series by name.

    Args:
        label_dir: searched without its subdirectories.
        names: series key to what its label may be called, from `label_names`.

    Returns:
        Series key to label path; and how many label files are given to no series.

    Raises:
        StoreError: the directory cannot be listed.
    """
    try:
        listed: list[AnyPath] = [*label_dir.iterdir()]
    except OSError as error:
        raise StoreError(f"the label directory cannot be listed: {error.strerror}") from error
    labels = sorted((path for path in listed if path.name.endswith((".nii", ".nii.gz"))), key=lambda path: path.name)
    by_name = {_stem(path.name): path for path in labels}
    found = {key: by_name[name] for key, own in names.items() for name in own if name in by_name}
    return found, len(set(by_name.values()) - set(found.values()))


def label_names(
    series: Iterable[tuple[str, str, str | None]], refused: Iterable[str] = ()
) -> dict[str, tuple[str, ...]]:
    """What the labels of all series of an archive may be called, without suffix, in rising order of preference.

    Where each patient has a directory with a `ct.nii.gz` in it, nobody knows whose a label `ct.nii.gz` is: a name that
    several images have is no label's.

    Args:
        series: of each its key, unique in the archive; its UID, which is the key without a number behind it; and the
            path of its image, None for DICOM.
        refused: paths of NIfTI files that are no readable series; a damaged image has its label all the same.

    Returns:
        By series key.
    """
    names: dict[str, tuple[str, ...]] = {}
    images = Counter(name for path in refused for name in {*_names_of_image(path)})
    for key, uid, path in series:
        own = () if path is None else _names_of_image(path)
        images.update(set(own))
        names[key] = (*own, uid, key)
    return {key: tuple(name for name in own if images[name] < 2) for key, own in names.items()}


def _names_of_image(path: str) -> tuple[str, ...]:
    stem = _stem(Path(path).name)
    return (stem.removesuffix("_0000"), stem)


def read_label_on_grid(
    path: AnyPath, geometry: VolumeGeometry, config: ReadingConfig, label_value: int | None = None
) -> LabelOnGrid:
    """Read a label and resample it in world space where its grid is another one.

    Args:
        path: NIfTI.
        geometry: of the series.
        config: bounds.
        label_value: which value is the structure; None takes every value above zero.

    Raises:
        ReadingError: ``label_geometry_mismatch``, part of the label lies outside the series, or its grid has the shape
            of the series and another size; or as `read_label`. The detail says that it is the label's.
    """
    try:
        label = read_label(path, config, label_value)
    except ReadingError as error:
        raise ReadingError(error.reason, f"label: {error.detail}") from error
    warnings = (Warn.SEVERAL_LABEL_VALUES,) if label.values[0] < label.values[1] else ()
    if same_grid(label.geometry, geometry):
        return LabelOnGrid(mask=label.mask, values=label.values, warnings=warnings)
    share = share_inside(np.argwhere(label.mask), label.geometry, geometry)
    if share < MIN_SHARE_INSIDE:
        detail = f"{share:.1%} of the label lies inside the series, expected at least {MIN_SHARE_INSIDE:.0%}"
        raise ReadingError(Reason.LABEL_GEOMETRY_MISMATCH, detail)
    covered = share_inside(_lattice(geometry), geometry, label.geometry)
    if label.geometry.shape == geometry.shape and covered < MIN_SHARE_COVERED:
        detail = f"the label has the shape of the series and reaches over {covered:.0%} of it: is its affine right?"
        raise ReadingError(Reason.LABEL_GEOMETRY_MISMATCH, detail)
    covers = share_inside(_corners(geometry), geometry, label.geometry) == 1
    of_grid = (Warn.LABEL_RESAMPLED,) if covers else (Warn.LABEL_RESAMPLED, Warn.LABEL_COVERS_PART)
    return LabelOnGrid(
        mask=label_in_grid(label.mask, label.geometry, geometry), values=label.values, warnings=(*warnings, *of_grid)
    )


def _lattice(geometry: VolumeGeometry) -> IntArray:
    """(N, 3) voxels, spread evenly over the whole."""
    axes = (np.linspace(0, n - 1, LATTICE_POINTS).round().astype(np.int64) for n in geometry.shape)
    return np.array(list(product(*axes)))


def _corners(geometry: VolumeGeometry) -> IntArray:
    """(8, 3) the outermost voxels: a box that holds these holds all."""
    return np.array(list(product(*((0, n - 1) for n in geometry.shape))))


def _stem(name: str) -> str:
    return name.removesuffix(".gz").removesuffix(".nii")
