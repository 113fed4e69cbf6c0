"""How good a model is: every subject of a source segmented, compared with its label, and reduced to a table.

K slices of one subject, S side of the model grid. One subject is in memory at a time; what stays is a row a slice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vaeseg.config import Precision
from vaeseg.errors import CheckpointError, ReadingError, UsageError
from vaeseg.evaluation.calibration import CalibrationHistogram
from vaeseg.evaluation.figures import confidence, figures
from vaeseg.evaluation.slices import SliceCounts
from vaeseg.evaluation.subjects import EvaluationTable, SlicePlaces, SubjectRecord, measure_subject, tabulate
from vaeseg.geometry.resample import covered_by_slice, label_to_model_grid, mask_to_native
from vaeseg.inference.evaluation_sources import Refused, Source, Subject
from vaeseg.inference.predictor import Predictor
from vaeseg.models.checkpoint import Checkpoint, load_checkpoint
from vaeseg.models.provenance import are_all_seen
from vaeseg.noticed import by_warning, sentences
from vaeseg.paths import AnyPath, printable
from vaeseg.records import BoolArray, IntArray, Warn

Measured = tuple[SubjectRecord, SliceCounts, SlicePlaces]


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluatedModel:
    """A model on its device."""

    name: str
    """Of the model file, without its suffix."""
    checkpoint: Checkpoint
    predictor: Predictor


def load_model(
    path: AnyPath, device: Literal["auto", "cpu", "cuda"] = "auto", precision: Precision = "auto"
) -> EvaluatedModel:
    """Load the model that is to be evaluated.

    Raises:
        CheckpointError: it cannot be used, or is a stage-one model.
        UsageError: there is no such device.
    """
    checkpoint = load_checkpoint(path)
    predictor = Predictor(checkpoint, device, precision=precision)
    return EvaluatedModel(name=printable(path.stem), checkpoint=checkpoint, predictor=predictor)


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What was measured."""

    model: str
    """Name of the model file without its suffix."""
    digest: str
    """SHA-256 of the model file."""
    threshold: float
    """Probability from which a pixel was called tumour."""
    computed_in: str
    """`float32` or `bfloat16`."""
    location: str
    """Name of what it was evaluated on."""
    table: EvaluationTable
    calibration: CalibrationHistogram
    """On the model grid, padding beside non-square slices left out."""
    refused: tuple[Refused, ...]
    overlap_subjects: int | None
    """Evaluated subjects that the model was trained on; None where none is known and it does not say whom it saw."""
    n_duplicates: int = 0
    """Evaluated subjects that are another one of them under another name."""
    warnings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of `records.Warn`: the evaluated subjects that it was noticed of."""


def evaluate(
    model: EvaluatedModel,
    source: Source,
    *,
    allow_overlap: bool = False,
    on_subject: Callable[[int], None] = lambda n_slices: None,
) -> Evaluation:
    """Segment every subject of a source and compare it with its label.

    Args:
        model: what segments.
        source: the subjects.
        allow_overlap: evaluate on subjects that the model was trained on, and say so.
        on_subject: called after each item with its number of slices, 0 for a refused one.

    Raises:
        UsageError: the model was trained on some of the subjects and that is not allowed, or the data were prepared
            otherwise than the model's.
        CheckpointError: the model's values for some slice are not finite.
    """
    seen = seen_tokens(model.checkpoint)
    calibration = CalibrationHistogram()
    parts: list[Measured] = []
    refused: list[Refused] = []
    known: set[str] = set()
    noticed: list[tuple[str, tuple[Warn, ...]]] = []
    n_found = n_overlapping = n_duplicates = 0
    for found in source.subjects(model.checkpoint.preprocessing):
        match found:
            case Refused():
                refused.append(found)
                on_subject(0)
            case Subject():
                n_found += 1
                n_overlapping += not seen.isdisjoint(found.tokens)
                n_duplicates += not known.isdisjoint(found.tokens)
                known.update(found.tokens)
                noticed.append((found.name, found.warnings))
                if allow_overlap or not n_overlapping:
                    parts.append(_measure(found, model.predictor, calibration))
                on_subject(len(found.label))
    if n_overlapping and not allow_overlap:
        raise UsageError(
            f"{model.name} was trained on {n_overlapping} of these {n_found} subjects, so its figures would not be "
            "those of unseen patients; evaluate on others, or give --allow-overlap"
        )
    return Evaluation(
        model=model.name,
        digest=model.checkpoint.digest,
        threshold=model.checkpoint.preprocessing.threshold,
        computed_in=model.predictor.computes_in,
        location=source.location,
        table=tabulate(parts),
        calibration=calibration,
        refused=tuple(refused),
        overlap_subjects=n_overlapping if n_overlapping or are_all_seen(seen) else None,
        n_duplicates=n_duplicates,
        warnings=by_warning(noticed),
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
        "computed_in": evaluation.computed_in,
        "n_subjects": len(table.subjects),
        "n_slices": len(table.counts),
        "n_label_slices": int(table.counts.has_label.sum()),
        **figures(table),
        "confidence": {name: bounds and list(bounds) for name, bounds in confidence(table, seed).items()},
        "overlap_subjects": evaluation.overlap_subjects,
        "duplicate_subjects": evaluation.n_duplicates,
        "warnings": {warning: list(names) for warning, names in evaluation.warnings.items()},
        "refused": [asdict(item) for item in evaluation.refused],
    }


def remarks(result: Mapping[str, Any]) -> Iterator[str]:
    """What a reader of the figures must know of the subjects, a sentence each.

    Args:
        result: from `result_json`.
    """
    if result["overlap_subjects"] is None:
        yield (
            f"whether {result['model']} was trained on these subjects is unknown: it does not record all whom it has "
            "seen"
        )
    elif result["overlap_subjects"]:
        yield (
            f"{result['model']} was trained on {result['overlap_subjects']} of these {result['n_subjects']} subjects: "
            "these are not figures of unseen patients"
        )
    if result["duplicate_subjects"]:
        yield (
            f"{result['duplicate_subjects']} of the {result['n_subjects']} subjects are copies of others, so that "
            "intervals are too narrow"
        )
    yield from sentences(result["warnings"])


def seen_tokens(checkpoint: Checkpoint) -> frozenset[str]:
    """Tokens of the subjects that a model was trained on or chosen by; empty for models that do not record them."""
    return frozenset(checkpoint.metadata.seen_tokens)


def predicted_probabilities(
    subject: Subject, predictor: Predictor, chosen: IntArray | None = None
) -> npt.NDArray[np.float32]:
    """Probabilities (K, S, S) on the model grid, or (n, S, S) of n chosen slices.

    Raises:
        CheckpointError: the model's values for some slice are not finite.
    """
    try:
        if subject.model_slices.dtype.kind == "u":
            slices = subject.model_slices if chosen is None else subject.model_slices[chosen]
            return predictor.probabilities_of_intensity(slices)
        return predictor.probabilities(subject.model_slices, chosen)
    except ReadingError as error:
        raise CheckpointError(
            f"the model cannot be evaluated: of {subject.name}, {error.detail}; get it again from where it came, or "
            "train it again with a lower learning_rate"
        ) from error


def mask_on_own_grid(subject: Subject, probabilities: npt.NDArray[np.float32], threshold: float) -> BoolArray:
    """The mask at the subject's own resolution: (n, S, S) probabilities to (n, J, I) bool."""
    mask = np.asarray(probabilities >= threshold)
    return mask if subject.grid is None else mask_to_native(mask, _shape(subject), subject.grid.spacing_mm)


def _measure(subject: Subject, predictor: Predictor, calibration: CalibrationHistogram) -> Measured:
    probabilities = predicted_probabilities(subject, predictor)
    _calibrate(subject, probabilities, calibration)
    mask = mask_on_own_grid(subject, probabilities, predictor.preprocessing.threshold)
    record, counts = measure_subject(subject.name, mask, subject.label, subject.grid, subject.places)
    return record, counts, subject.places


def _calibrate(subject: Subject, probabilities: npt.NDArray[np.float32], calibration: CalibrationHistogram) -> None:
    if subject.grid is None:
        calibration.add(probabilities, subject.label)
        return
    size = probabilities.shape[-1]
    rows, columns = covered_by_slice(_shape(subject), subject.grid.spacing_mm, size)
    label = label_to_model_grid(subject.label, subject.grid.spacing_mm, size)
    calibration.add(probabilities[:, rows, columns], label[:, rows, columns])


def _shape(subject: Subject) -> tuple[int, int, int]:
    n_slices, height, width = subject.label.shape
    return (n_slices, height, width)
