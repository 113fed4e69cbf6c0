"""Subjects reduced to records: their slices' counts, their volumes, and which of their lesions were found.

K slices of one subject, N slices of all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from vaeseg.evaluation.lesions import find_components
from vaeseg.evaluation.slices import SliceCounts, concatenate_counts, count_slices
from vaeseg.records import MM3_PER_ML, BoolArray, IntArray


@dataclass(frozen=True, kw_only=True)
class Grid:
    """How large the voxels of a subject are, at the resolution that it is evaluated at."""

    spacing_mm: tuple[float, float, float]
    """Along (k, j, i)."""
    pixel_mm2: float
    """Area of a pixel within a slice."""
    voxel_mm3: float
    """Volume of a voxel; not the product of the spacings where slices are sheared."""


@dataclass(frozen=True, kw_only=True)
class LesionHit:
    """One labelled lesion, and whether it was found."""

    n_voxels: int
    volume_ml: float | None
    """None where the size of the voxels is not known."""
    found: bool
    """At least one of its voxels is predicted."""


@dataclass(frozen=True, kw_only=True)
class SubjectRecord:
    """What a subject adds to the figures, its slices aside."""

    name: str
    n_slices: int
    grid: Grid | None
    """None where the size of the pixels is not known."""
    labelled_ml: float | None
    """None without a grid."""
    predicted_ml: float | None
    """None without a grid."""
    lesions: tuple[LesionHit, ...]
    """Labelled lesions, largest first within each run of neighbouring slices."""
    n_false_lesions: int
    """Predicted components that touch no labelled voxel."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SlicePlaces:
    """From which volume each slice is, and where it lies in it."""

    series: tuple[str, ...]
    """(K,) name of the volume; those of one volume follow each other."""
    slice_index: IntArray
    """(K,) number within the volume, from 0 at the feet, ascending."""

    def __len__(self) -> int:
        return len(self.slice_index)

    @property
    def runs(self) -> list[slice]:
        """Ranges within which each slice is the neighbour of the one before."""
        series = np.array(self.series, dtype=object)
        breaks = np.flatnonzero((np.diff(self.slice_index) != 1) | (series[1:] != series[:-1])) + 1
        bounds = [0, *breaks.tolist(), len(self)]
        return [slice(start, stop) for start, stop in pairwise(bounds)]


def whole_volume(series: str, n_slices: int) -> SlicePlaces:
    """Places of all slices of one volume."""
    return SlicePlaces(series=(series,) * n_slices, slice_index=np.arange(n_slices))


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationTable:
    """Every subject and every slice that was evaluated; all figures come from here."""

    subjects: tuple[SubjectRecord, ...]
    counts: SliceCounts
    """Of N slices, subject after subject."""
    subject_of_slice: IntArray
    """(N,) index into `subjects`, ascending."""
    places: SlicePlaces
    """Of N slices."""

    @cached_property
    def label_areas_mm2(self) -> npt.NDArray[np.float64]:
        """(N,) area of the label of each slice; NaN where the size of the pixels is not known."""
        pixel_mm2 = _known([None if s.grid is None else s.grid.pixel_mm2 for s in self.subjects])
        return np.asarray(self.counts.label * pixel_mm2[self.subject_of_slice])

    @cached_property
    def labelled_ml(self) -> npt.NDArray[np.float64]:
        """(n_subjects,) labelled volumes; NaN where the size of the voxels is not known."""
        return _known([subject.labelled_ml for subject in self.subjects])

    @cached_property
    def predicted_ml(self) -> npt.NDArray[np.float64]:
        """(n_subjects,) predicted volumes; NaN where the size of the voxels is not known."""
        return _known([subject.predicted_ml for subject in self.subjects])


def measure_subject(
    name: str, mask: BoolArray, label: BoolArray, grid: Grid | None, places: SlicePlaces
) -> tuple[SubjectRecord, SliceCounts]:
    """Compare a subject's mask with its label.

    Lesions are connected components with connectivity 26. Slices of different volumes, or whose numbers do not follow
    one another, are not neighbours: a lesion that two volumes show counts twice, and one cut by slices that are not
    evaluated counts once on either side.

    Args:
        name: as it appears in reports.
        mask: (K, J, I) bool, predicted, axial order.
        label: (K, J, I) bool.
        grid: size of the voxels; None where it is not known.
        places: of K slices.

    Raises:
        ValueError: shapes or lengths differ.
    """
    counts = count_slices(mask, label)
    if len(places) != len(counts):
        raise ValueError(f"{len(counts)} slices, places of {len(places)}")
    runs = places.runs
    record = SubjectRecord(
        name=name,
        n_slices=len(counts),
        grid=grid,
        labelled_ml=_volume_ml(int(counts.label.sum()), grid),
        predicted_ml=_volume_ml(int(counts.predicted.sum()), grid),
        lesions=tuple(
            LesionHit(n_voxels=n_voxels, volume_ml=_volume_ml(n_voxels, grid), found=found)
            for run in runs
            for n_voxels, found in touched_components(label[run], mask[run])
        ),
        n_false_lesions=sum(not found for run in runs for _, found in touched_components(mask[run], label[run])),
    )
    return record, counts


def touched_components(of: BoolArray, by: BoolArray) -> list[tuple[int, bool]]:
    """Size of each component of one mask, and whether the other mask shares a voxel with it.

    Args:
        of: (K, J, I) bool, whose connected components (26) are counted.
        by: (K, J, I) bool.

    Returns:
        Voxels and whether touched, largest component first; empty for an empty mask.
    """
    components = find_components(of)
    touched = set(np.unique(components.labels[by[components.box]]).tolist())
    return [(n_voxels, number in touched) for number, n_voxels in enumerate(components.n_voxels, start=1)]


def tabulate(parts: Sequence[tuple[SubjectRecord, SliceCounts, SlicePlaces]]) -> EvaluationTable:
    """One table of all subjects, each given with its slices' counts and places; no parts give an empty table."""
    lengths = [len(counts) for _, counts, _ in parts]
    nothing = np.zeros(0, dtype=np.int64)
    return EvaluationTable(
        subjects=tuple(record for record, _, _ in parts),
        counts=concatenate_counts([counts for _, counts, _ in parts]),
        subject_of_slice=np.repeat(np.arange(len(parts)), lengths),
        places=SlicePlaces(
            series=tuple(name for _, _, places in parts for name in places.series),
            slice_index=np.concatenate([nothing, *(places.slice_index for _, _, places in parts)]),
        ),
    )


def _volume_ml(n_voxels: int, grid: Grid | None) -> float | None:
    return None if grid is None else n_voxels * grid.voxel_mm3 / MM3_PER_ML


def _known(values: Sequence[float | None]) -> npt.NDArray[np.float64]:
    """float64, NaN for None."""
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)
