"""Two ways to reduce a test set to one figure: slice by slice as the paper does, and patient by patient.

The paper averages IoU over slices that hold a label or a prediction. Neighbouring slices are nearly copies, so that a
large tumour counts many times; the patient-level figures count each subject once. N is the number of slices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vaeseg.records import BoolArray, FloatArray

_IN_PLANE = (1, 2)


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
    shared, union = _slice_counts(masks, labels)
    return _ratio(shared, union)


def holds_label(labels: BoolArray) -> BoolArray:
    """Which slices hold a label: (N, J, I) bool to (N,) bool."""
    return np.asarray(labels.any(axis=_IN_PLANE))


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


def subject_volume_ious(masks: BoolArray, labels: BoolArray, subjects: Sequence[str]) -> dict[str, float]:
    """IoU over all voxels of each subject together, the figure that per-patient benchmarks report.

    Args:
        masks: (N, J, I) bool, predicted.
        labels: (N, J, I) bool.
        subjects: N subject keys, in any order.

    Returns:
        Subject to IoU, by order of first slice; NaN for a subject with neither label nor prediction.

    Raises:
        ValueError: shapes or lengths differ.
    """
    shared, union = _slice_counts(masks, labels)
    of_subject = _slices_of(subjects, len(shared))
    return {
        subject: float(_ratio(shared[slices].sum(keepdims=True), union[slices].sum(keepdims=True))[0])
        for subject, slices in of_subject.items()
    }


def mean_over_subjects(per_subject: dict[str, float]) -> float:
    """Mean in which each subject counts once; subjects with NaN are left out, NaN when none is left."""
    return _mean(np.array(list(per_subject.values()), dtype=np.float64))


def _slice_counts(masks: BoolArray, labels: BoolArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pixels in both and in either, a slice: (N,) int64 each."""
    if masks.shape != labels.shape or masks.ndim != 3:
        raise ValueError(f"masks have shape {masks.shape}, labels {labels.shape}; expected the same (N, J, I)")
    shared = np.count_nonzero(masks & labels, axis=_IN_PLANE)
    union = np.count_nonzero(masks | labels, axis=_IN_PLANE)
    return np.asarray(shared, dtype=np.int64), np.asarray(union, dtype=np.int64)


def _ratio(shared: npt.NDArray[np.int64], union: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.asarray(np.divide(shared, union, out=np.full(shared.shape, np.nan), where=union > 0))


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
