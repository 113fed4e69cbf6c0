"""Two ways to reduce a test set to one figure: slice by slice as the paper does, and patient by patient.

The paper averages IoU over slices that hold a label or a prediction. Neighbouring slices are nearly copies, so that a
large tumour counts many times; the patient-level figures count each subject once. N is the number of slices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vaeseg.evaluation.slices import count_slices
from vaeseg.records import BoolArray, FloatArray


def slice_ious(masks: BoolArray, labels: BoolArray) -> npt.NDArray[np.float64]:
    """IoU of each slice.

    Args:
        masks: (N, J, I) bool, predicted.
        labels: (N, J, I) bool.

    Returns:
        (N,) float64 in [0, 1]; NaN where both the mask and the label of a slice are empty.

    Raises:
        ValueError: the shapes differ or are not three-dimensional.
    """
    return count_slices(masks, labels).ious


def holds_label(labels: BoolArray) -> BoolArray:
    """Which slices hold a label: (N, J, I) bool to (N,) bool."""
    return np.asarray(labels.any(axis=(1, 2)))


def mean_iou_label_or_prediction(ious: FloatArray) -> float:
    """The paper's figure (its table 3): mean IoU over slices that hold a label or a prediction.

    Args:
        ious: (N,) from `slice_ious`; slices with neither are NaN and left out.

    Returns:
        Value in [0, 1]; NaN when no slice holds either.
    """
    return _mean(ious)


def mean_iou_label(ious: FloatArray, with_label: BoolArray) -> float:
    """Mean IoU over slices that hold a label; blind to tumours found where there are none.

    Args:
        ious: (N,) from `slice_ious`.
        with_label: (N,) bool from `holds_label`.

    Returns:
        Value in [0, 1]; NaN when no slice holds a label.

    Raises:
        ValueError: the lengths differ.
    """
    if ious.shape != with_label.shape:
        raise ValueError(f"{ious.shape} slice figures, {with_label.shape} label flags")
    return _mean(ious[with_label])


def subject_mean_ious(ious: FloatArray, subjects: Sequence[str]) -> dict[str, float]:
    """Mean over each subject's slices that hold a label or a prediction.

    Args:
        ious: (N,) from `slice_ious`.
        subjects: N subject keys, in any order.

    Returns:
        Subject to mean IoU, by order of first slice; NaN for a subject with neither label nor prediction.

    Raises:
        ValueError: the lengths differ.
    """
    of_subject = _slices_of(subjects, len(ious))
    return {subject: _mean(ious[slices]) for subject, slices in of_subject.items()}


def mean_over_subjects(per_subject: dict[str, float]) -> float:
    """Mean in which each subject counts once; subjects with NaN are left out, NaN when none is left."""
    return _mean(np.array(list(per_subject.values()), dtype=np.float64))


def _slices_of(subjects: Sequence[str], n_slices: int) -> dict[str, list[int]]:
    if len(subjects) != n_slices:
        raise ValueError(f"{n_slices} slices, {len(subjects)} subjects")
    slices: dict[str, list[int]] = {}
    for index, subject in enumerate(subjects):
        slices.setdefault(subject, []).append(index)
    return slices


def _mean(values: FloatArray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
