"""The figures of an evaluation, each with its interval; definitions are in docs/evaluation.md.

Undefined is None: there is no mean over slices with a label where no slice holds one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vaeseg.evaluation.bootstrap import N_DRAWS, MedianOfItems, RatioOfSums, Statistic, draw_subjects, interval, value
from vaeseg.evaluation.protocol import subject_mean_ious
from vaeseg.evaluation.subjects import EvaluationTable
from vaeseg.records import BoolArray, FloatArray

LARGE_LABEL_PIXELS = 100
"""A label of at least this many pixels of the given image is large."""


def figures(table: EvaluationTable) -> dict[str, float | None]:
    """Every figure by its name, in the order of `--json`."""
    return {name: value(statistic, len(table.subjects)) for name, statistic in statistics(table).items()}


def confidence(table: EvaluationTable, seed: int, n_draws: int = N_DRAWS) -> dict[str, tuple[float, float] | None]:
    """The 95 % interval of every figure over draws of subjects, all from the same draws; None where undefined."""
    draws = draw_subjects(len(table.subjects), n_draws, seed)
    return {name: interval(statistic, draws) for name, statistic in statistics(table).items()}


def statistics(table: EvaluationTable) -> dict[str, Statistic]:
    """Every figure as a function of how often each subject counts."""
    counts = table.counts
    lesions = [subject.lesions for subject in table.subjects]
    with_label = counts.has_label
    return {
        "iou_label": _mean(table, counts.ious, with_label),
        "iou_label_or_prediction": _mean(table, counts.ious, counts.union > 0),
        "iou_label_median": _median(table, counts.ious, with_label),
        "iou_pooled": RatioOfSums(numerator=_sum(table, counts.shared), denominator=_sum(table, counts.union)),
        "dice_label": _mean(table, counts.dices, with_label),
        "iou_subject": _mean_over_subjects(_subject_ious(table)),
        "iou_label_large": _mean(table, counts.ious, counts.label >= LARGE_LABEL_PIXELS),
        "volume_error_ml_median": _volume_error(table),
        "sensitivity": RatioOfSums(
            numerator=np.array([sum(lesion.found for lesion in found) for found in lesions], dtype=np.int64),
            denominator=np.array([len(found) for found in lesions], dtype=np.int64),
        ),
        "false_positive_slices_share": _mean(table, counts.has_prediction, ~with_label),
    }


def _mean(table: EvaluationTable, of: npt.NDArray[np.bool_] | FloatArray, chosen: BoolArray) -> RatioOfSums:
    """Mean over the chosen slices."""
    return RatioOfSums(numerator=_sum(table, np.where(chosen, of, 0)), denominator=_sum(table, chosen))


def _median(table: EvaluationTable, of: npt.NDArray[np.float64], chosen: BoolArray) -> MedianOfItems:
    return MedianOfItems(values=of[chosen], subject_of_item=table.subject_of_slice[chosen])


def _volume_error(table: EvaluationTable) -> MedianOfItems:
    """Of the subjects whose volumes are known."""
    errors = np.abs(table.predicted_ml - table.labelled_ml)
    known = np.flatnonzero(~np.isnan(errors))
    return MedianOfItems(values=errors[known], subject_of_item=known)


def _mean_over_subjects(of: npt.NDArray[np.float64]) -> RatioOfSums:
    """Mean in which each subject counts once; subjects with NaN are left out."""
    return RatioOfSums(numerator=np.nan_to_num(of, nan=0.0), denominator=~np.isnan(of))


def _subject_ious(table: EvaluationTable) -> npt.NDArray[np.float64]:
    """(n_subjects,) mean over each subject's slices with a label or a prediction; NaN for a subject without."""
    of_slice = [str(number) for number in table.subject_of_slice]
    means = subject_mean_ious(table.counts.ious, of_slice)
    return np.array([means.get(str(number), np.nan) for number in range(len(table.subjects))], dtype=np.float64)


def _sum(table: EvaluationTable, of: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """(n_subjects,) sum over each subject's slices."""
    return np.bincount(
        table.subject_of_slice, weights=np.asarray(of, dtype=np.float64), minlength=len(table.subjects)
    ).astype(np.float64)
