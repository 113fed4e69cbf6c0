"""Figures on slices that are not trained on, from the posterior mean, shared between workers.

N slices, B batch, S side of the model grid.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from vaeseg.config import TrainingConfig
from vaeseg.evaluation.protocol import (
    holds_label,
    mean_iou_label,
    mean_iou_label_or_prediction,
    mean_over_subjects,
    slice_ious,
    subject_mean_ious,
)
from vaeseg.io.slices import SliceIndex
from vaeseg.models.segmenter import Segmenter
from vaeseg.models.vae import VariationalAutoencoder
from vaeseg.records import FloatArray, IntArray
from vaeseg.training.batches import Batch
from vaeseg.training.objective import autocast, device_of, stage_losses
from vaeseg.training.parallel import ALONE, Worker
from vaeseg.training.sources import SliceSource

EVALUATION_BATCH = {"cpu": 16, "cuda": 256}
"""Slices a step; small on a CPU, so that activations stay in its cache."""

Table = dict[str, FloatArray]
"""One figure a slice under each name, (N,) float64."""


def evaluate(
    model: VariationalAutoencoder,
    source: SliceSource,
    index: SliceIndex,
    indices: IntArray,
    config: TrainingConfig,
    threshold: float,
    worker: Worker = ALONE,
) -> dict[str, float | None]:
    """Figures of a stage on some slices, at least one; None where undefined, or where a slice's values are not finite.

    Returns:
        The stage's losses (`training.objective`), mean over slices. Stage two also has `iou_label_or_prediction` (the
        paper's figure), `iou_label`, and `iou_subject` (mean over subjects of their mean over slices that hold a label
        or a prediction). Every worker gets the same figures.
    """
    own = indices[worker.rank :: worker.world]
    tables = worker.gathered(_measured(model, source, own, config, threshold))
    places = np.argsort(np.concatenate(worker.gathered(np.arange(len(indices))[worker.rank :: worker.world])))
    table = {name: np.concatenate([part[name] for part in tables if part])[places] for name in tables[0]}
    figures = {name: float(values.mean()) for name, values in table.items() if name not in ("iou", "label")}
    if isinstance(model, Segmenter):
        subjects = [index.subjects[s] for s in index.subject_of_slice[indices]]
        overlap = _overlap(table["iou"], table["label"], subjects)
        figures |= overlap if math.isfinite(figures["bce"]) else dict.fromkeys(overlap, math.nan)
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def _overlap(ious: FloatArray, with_label: FloatArray, subjects: list[str]) -> dict[str, float]:
    return {
        "iou_label_or_prediction": mean_iou_label_or_prediction(ious),
        "iou_label": mean_iou_label(ious, with_label > 0),
        "iou_subject": mean_over_subjects(subject_mean_ious(ious, subjects)),
    }


def _measured(
    model: VariationalAutoencoder, source: SliceSource, indices: IntArray, config: TrainingConfig, threshold: float
) -> Table:
    model.eval()
    size = EVALUATION_BATCH[device_of(model).type]
    parts = [indices[first : first + size] for first in range(0, len(indices), size)]
    with torch.inference_mode():
        tables = [_measured_batch(model, batch, config, threshold) for batch in source.steps(parts)]
    return {name: np.concatenate([table[name] for table in tables]) for name in (tables[0] if tables else {})}


def _measured_batch(model: VariationalAutoencoder, batch: Batch, config: TrainingConfig, threshold: float) -> Table:
    with autocast(model, config):
        logits, posterior = model(batch.images)
    losses = stage_losses(model, logits, posterior, batch, config)
    table = {name: figure.double().cpu().numpy() for name, figure in losses.items()}
    if isinstance(model, Segmenter):
        masks = (torch.sigmoid(logits.float()) >= threshold).squeeze(1).cpu().numpy()
        labels = (batch.labels > 0).squeeze(1).cpu().numpy()
        table |= {"iou": slice_ious(masks, labels), "label": holds_label(labels).astype(np.float64)}
    return table
