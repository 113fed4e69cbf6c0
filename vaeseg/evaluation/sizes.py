"""Figures by tumour size: where small tumours fail, a mean over all sizes does not show it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from vaeseg.evaluation.slices import equivalent_diameters_mm
from vaeseg.evaluation.subjects import EvaluationTable
from vaeseg.records import BoolArray

SIZES_MM = (0.0, 6.0, 10.0, 20.0, 30.0, math.inf)
"""Bounds of the diameter of the disc that has the area of a slice's label; the lower one belongs to its class."""


@dataclass(frozen=True, kw_only=True)
class SizeRow:
    """Slices whose label is of one size."""

    low_mm: float
    high_mm: float
    """Infinite for the last."""
    n_subjects: int
    n_slices: int
    iou: float | None
    """Mean over the slices; None for none."""
    dice: float | None
    """Mean over the slices; None for none."""
    missed_share: float | None
    """Share of the slices in which no labelled pixel is predicted; None for none."""


def by_size(table: EvaluationTable) -> tuple[SizeRow, ...]:
    """Slices with a label by in-plane equivalent diameter; one row a class, also where no slice belongs to it.

    Slices whose pixels are of unknown size belong to no class.
    """
    diameters = equivalent_diameters_mm(table.label_areas_mm2)
    labelled = table.counts.has_label
    return tuple(
        _row(table, labelled & (diameters >= low) & (diameters < high), low, high) for low, high in pairwise(SIZES_MM)
    )


def _row(table: EvaluationTable, chosen: BoolArray, low_mm: float, high_mm: float) -> SizeRow:
    n_slices = int(chosen.sum())
    return SizeRow(
        low_mm=low_mm,
        high_mm=high_mm,
        n_subjects=len(np.unique(table.subject_of_slice[chosen])),
        n_slices=n_slices,
        iou=float(table.counts.ious[chosen].mean()) if n_slices else None,
        dice=float(table.counts.dices[chosen].mean()) if n_slices else None,
        missed_share=float((table.counts.shared[chosen] == 0).mean()) if n_slices else None,
    )
