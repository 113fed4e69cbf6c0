"""The slices of a report's overlays, read and segmented once more: an evaluation keeps counts and no pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from vaeseg.evaluation.cases import Case, CaseKind
from vaeseg.evaluation.subjects import EvaluationTable
from vaeseg.inference.evaluation import EvaluatedModel, mask_on_own_grid, predicted_probabilities
from vaeseg.inference.evaluation_sources import Source, Subject
from vaeseg.models.preprocessing import intensity_ranges
from vaeseg.records import BoolArray

SMALLEST_SIDE = 96
"""Pixels shown around a tumour, at least."""

MARGIN = 2.5
"""Side of what is shown over the extent of label and prediction together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CasePicture:
    """A slice, cut out round its label and prediction."""

    kind: CaseKind
    subject: str
    slice_index: int
    iou: float
    image: npt.NDArray[np.float32]
    """(H, W) intensity in [0, 1] as the network sees it, at the image's own resolution."""
    label: BoolArray
    """(H, W)."""
    mask: BoolArray
    """(H, W)."""
    pixel_aspect: float
    """Height of a pixel over its width."""


def picture_cases(
    model: EvaluatedModel, source: Source, table: EvaluationTable, cases: Sequence[Case]
) -> tuple[CasePicture, ...]:
    """Picture some rows of a table, in the order given; every subject is read once.

    Raises:
        ReadingError: a file was there during the evaluation and cannot be read any longer.
    """
    by_subject = sorted(range(len(cases)), key=lambda n: table.subject_of_slice[cases[n].row])
    pictures: dict[int, CasePicture] = {}
    for number, group in groupby(by_subject, key=lambda n: int(table.subject_of_slice[cases[n].row])):
        subject = source.subject(table.subjects[number].name, model.checkpoint.preprocessing)
        first = int(np.searchsorted(table.subject_of_slice, number))
        wanted = list(group)
        pictures.update(zip(wanted, _pictures(model, subject, table, first, [cases[n] for n in wanted]), strict=True))
    return tuple(pictures[n] for n in range(len(cases)))


def _pictures(
    model: EvaluatedModel, subject: Subject, table: EvaluationTable, first: int, cases: Sequence[Case]
) -> Iterable[CasePicture]:
    """Of one subject, whose slices begin at row `first` of the table."""
    chosen = np.array([case.row - first for case in cases], dtype=np.intp)
    probabilities = predicted_probabilities(subject, model.predictor, chosen)
    masks = mask_on_own_grid(subject, probabilities, model.checkpoint.preprocessing.threshold)
    ranges = _ranges(model, subject)
    for case, place, mask in zip(cases, chosen.tolist(), masks, strict=True):
        label, (low, high) = subject.label[place], ranges[place]
        rows, columns = _around(label | mask)
        image = (subject.image[place][rows, columns].astype(np.float32) - low) / max(high - low, 1e-6)
        yield CasePicture(
            kind=case.kind,
            subject=subject.name,
            slice_index=int(table.places.slice_index[case.row]),
            iou=float(table.counts.ious[case.row]),
            image=np.clip(image, 0, 1),
            label=label[rows, columns],
            mask=mask[rows, columns],
            pixel_aspect=1.0 if subject.grid is None else subject.grid.spacing_mm[1] / subject.grid.spacing_mm[2],
        )


def _ranges(model: EvaluatedModel, subject: Subject) -> npt.NDArray[np.float32]:
    """(K, 2) values of the image that are shown black and white."""
    if subject.model_slices.dtype.kind == "u":
        full = np.iinfo(subject.model_slices.dtype).max
        return np.tile(np.array([0, full], dtype=np.float32), (len(subject.model_slices), 1))
    return intensity_ranges(subject.model_slices, model.checkpoint.preprocessing)


def _around(shown: BoolArray) -> tuple[slice, slice]:
    """Rows and columns to show: a square round what is True, within the slice; all of a small slice."""
    found = np.argwhere(shown)
    low, high = found.min(axis=0), found.max(axis=0) + 1
    side = max(SMALLEST_SIDE, round(MARGIN * int((high - low).max())))
    rows, columns = (
        _window(int(middle), side, length) for middle, length in zip((low + high) // 2, shown.shape, strict=True)
    )
    return rows, columns


def _window(middle: int, side: int, length: int) -> slice:
    start = min(max(0, middle - side // 2), max(0, length - side))
    return slice(start, min(start + side, length))
