"""Which slices to look at: a page of figures says how often a model fails, only pictures say how."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vaeseg.evaluation.subjects import EvaluationTable

CaseKind = Literal["best", "median", "worst", "false_alarm"]

CASES_EACH = 4
"""Slices of each kind, at most, no two of one subject."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A slice that is worth a picture."""

    kind: CaseKind
    row: int
    """Of the table."""


def choose_cases(table: EvaluationTable, n_each: int = CASES_EACH) -> tuple[Case, ...]:
    """The best, median and worst slices with a label by IoU, and the largest false alarms in slices without.

    Of slices with the same IoU, the one with the larger label comes first.

    Returns:
        Up to `n_each` of each kind, of different subjects within a kind; empty for an empty table.
    """
    ious, label = table.counts.ious, table.counts.label
    labelled = np.flatnonzero(table.counts.has_label)
    alarms = np.flatnonzero(table.counts.has_prediction & ~table.counts.has_label)
    median = np.median(ious[labelled]) if len(labelled) else 0.0
    orders: dict[CaseKind, Iterable[int]] = {
        "best": sorted(labelled.tolist(), key=lambda row: (-ious[row], -label[row])),
        "median": sorted(labelled.tolist(), key=lambda row: (abs(ious[row] - median), -label[row])),
        "worst": sorted(labelled.tolist(), key=lambda row: (ious[row], -label[row])),
        "false_alarm": sorted(alarms.tolist(), key=lambda row: -table.counts.predicted[row]),
    }
    return tuple(
        Case(kind=kind, row=row)
        for kind, order in orders.items()
        for row in _of_different_subjects(table, order, n_each)
    )


def _of_different_subjects(table: EvaluationTable, rows: Iterable[int], n: int) -> list[int]:
    chosen: dict[int, int] = {}
    for row in rows:
        if len(chosen) == n:
            break
        chosen.setdefault(int(table.subject_of_slice[row]), row)
    return list(chosen.values())
