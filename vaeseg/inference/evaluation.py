"""How good a model is: every subject of a source segmented, compared with its label, and reduced to a table.

K slices of one subject, S side of the model grid. One subject is in memory at a time; what stays is a row a slice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vaeseg.errors import UsageError
from vaeseg.evaluation.calibration import CalibrationHistogram
from vaeseg.evaluation.figures import confidence, figures
from vaeseg.evaluation.slices import SliceCounts
from vaeseg.evaluation.subjects import EvaluationTable, SubjectRecord, measure_subject, tabulate
from vaeseg.geometry.resample import covered_by_slice, label_to_model_grid, mask_to_native
from vaeseg.inference.evaluation_sources import Refused, Source, Subject
from vaeseg.inference.predictor import Predictor
from vaeseg.models.checkpoint import Checkpoint, load_checkpoint
from vaeseg.records import BoolArray, IntArray

Measured = tuple[SubjectRecord, SliceCounts, IntArray]


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """Which model, and how it is evaluated."""

    model: Path
    """A checkpoint file."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it runs."""
    allow_overlap: bool = False
    """Evaluate on subjects that the model was trained on, and say so."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What was measured."""

    model: str
    """Name of the model file without its suffix."""
    digest: str
    """SHA-256 of the model file."""
    threshold: float
    """Probability from which a pixel was called tumour."""
    location: str
    """Name of what it was evaluated on."""
    table: EvaluationTable
    calibration: CalibrationHistogram
    """On the model grid, padding beside non-square slices left out."""
    refused: tuple[Refused, ...]
    overlap_subjects: int | None
    """Evaluated subjects that the model was trained on; None where the model does not say whom it has seen."""


def evaluate(
    request: EvaluationRequest, source: Source, on_subject: Callable[[int], None] = lambda n_slices: None
) -> Evaluation:
    """Segment every subject of a source and compare it with its label.

    Args:
        request: the model.
        source: the subjects.
        on_subject: called after each item with its number of slices, 0 for a refused one.

    Raises:
        CheckpointError: the model cannot be used.
        UsageError: the model was trained on some of the subjects and `allow_overlap` is not set, the data were
            prepared otherwise than the model's, or there is no such device.
    """
    checkpoint = load_checkpoint(request.model)
    predictor = Predictor(checkpoint, request.device)
    seen = seen_tokens(checkpoint)
    calibration = CalibrationHistogram()
    parts: list[Measured] = []
    refused: list[Refused] = []
    n_found = n_overlapping = 0
    for found in source.subjects(checkpoint.preprocessing):
        match found:
            case Refused():
                refused.append(found)
                on_subject(0)
            case Subject():
                n_found += 1
                n_overlapping += not seen.isdisjoint(found.tokens)
                if request.allow_overlap or not n_overlapping:
                    parts.append(_measure(found, predictor, calibration))
                on_subject(len(found.label))
    if n_overlapping and not request.allow_overlap:
        raise UsageError(
            f"{request.model.stem} was trained on {n_overlapping} of these {n_found} subjects, so its figures would "
            "not be those of unseen patients; evaluate on others, or give --allow-overlap"
        )
    return Evaluation(
        model=request.model.stem,
        digest=checkpoint.digest,
        threshold=checkpoint.preprocessing.threshold,
        location=source.location,
        table=tabulate(parts),
        calibration=calibration,
        refused=tuple(refused),
        overlap_subjects=n_overlapping if seen else None,
    )


def result_json(evaluation: Evaluation, seed: int) -> dict[str, Any]:
    """What `evaluate --json` prints: figures with their intervals; None where undefined, never NaN.

    Args:
        evaluation: what was measured.
        seed: of the bootstrap.
    """
    table = evaluation.table
    return {
        "model": evaluation.model,
        "digest": evaluation.digest,
        "threshold": evaluation.threshold,
        "n_subjects": len(table.subjects),
        "n_slices": len(table.counts),
        "n_label_slices": int(table.counts.has_label.sum()),
        **figures(table),
        "confidence": {name: bounds and list(bounds) for name, bounds in confidence(table, seed).items()},
        "overlap_subjects": evaluation.overlap_subjects,
        "refused": [asdict(item) for item in evaluation.refused],
    }


def seen_tokens(checkpoint: Checkpoint) -> frozenset[str]:
    """Tokens of the subjects that a model was trained on or chosen by; empty for models that do not record them."""
    return frozenset(getattr(checkpoint.metadata, "seen_tokens", ()))


def predicted_probabilities(
    subject: Subject, predictor: Predictor, chosen: IntArray | None = None
) -> npt.NDArray[np.float32]:
    """Probabilities (K, S, S) on the model grid, or (n, S, S) of n chosen slices."""
    if subject.model_slices.dtype.kind == "u":
        slices = subject.model_slices if chosen is None else subject.model_slices[chosen]
        return predictor.probabilities_of_intensity(slices)
    return predictor.probabilities(subject.model_slices, chosen)


def mask_on_own_grid(subject: Subject, probabilities: npt.NDArray[np.float32], threshold: float) -> BoolArray:
    """The mask at the subject's own resolution: (n, S, S) probabilities to (n, J, I) bool."""
    mask = np.asarray(probabilities >= threshold)
    return mask_to_native(mask, _shape(subject), subject.grid.spacing_mm)


def _measure(subject: Subject, predictor: Predictor, calibration: CalibrationHistogram) -> Measured:
    probabilities = predicted_probabilities(subject, predictor)
    _calibrate(subject, probabilities, calibration)
    mask = mask_on_own_grid(subject, probabilities, predictor.preprocessing.threshold)
    record, counts = measure_subject(subject.name, mask, subject.label, subject.grid, subject.slice_index)
    return record, counts, subject.slice_index


def _calibrate(subject: Subject, probabilities: npt.NDArray[np.float32], calibration: CalibrationHistogram) -> None:
    size = probabilities.shape[-1]
    rows, columns = covered_by_slice(_shape(subject), subject.grid.spacing_mm, size)
    label = label_to_model_grid(subject.label, subject.grid.spacing_mm, size)
    calibration.add(probabilities[:, rows, columns], label[:, rows, columns])


def _shape(subject: Subject) -> tuple[int, int, int]:
    n_slices, height, width = subject.label.shape
    return (n_slices, height, width)
