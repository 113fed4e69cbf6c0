"""Figures on slices that are not trained on, from the posterior mean.

N slices, B batch, S side of the model grid.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from vaeseg.evaluation.protocol import (
    holds_label,
    mean_iou_label,
    mean_iou_label_or_prediction,
    mean_over_subjects,
    slice_ious,
    subject_mean_ious,
)
from vaeseg.models.losses import cross_entropy, kl_divergence
from vaeseg.models.segmenter import Segmenter
from vaeseg.models.vae import VariationalAutoencoder
from vaeseg.records import BoolArray, IntArray
from vaeseg.training.batches import whole_batch
from vaeseg.training.slices import SliceSet

EVALUATION_BATCH = 16
"""Slices a step; small, so that activations stay in the cache of a CPU."""


def evaluate(
    model: VariationalAutoencoder, slices: SliceSet, indices: IntArray, threshold: float, bf16: bool
) -> dict[str, float | None]:
    """Figures of a stage on some slices; None where undefined.

    Returns:
        Stage one: `reconstruction` (BCE, mean over pixels) and `kl` (nats per latent number). Stage two:
        `iou_label_or_prediction` (the paper's figure), `iou_label`, and `iou_subject` (mean over subjects of their
        mean over slices that hold a label or a prediction).
    """
    if isinstance(model, Segmenter):
        return _segmentation_figures(predict(model, slices, indices, threshold, bf16), slices, indices)
    return _reconstruction_figures(model, slices, indices, bf16)


def predict(model: Segmenter, slices: SliceSet, indices: IntArray, threshold: float, bf16: bool) -> BoolArray:
    """Masks (len(indices), S, S) bool of whole slices."""
    masks = []
    with torch.inference_mode(), autocast(model, bf16):
        for part in _evaluation_parts(model, indices):
            images = whole_batch(slices, part).images.to(device_of(model))
            masks.append((model.probability(images).float() >= threshold).squeeze(1).cpu().numpy())
    return np.concatenate(masks)


def autocast(model: torch.nn.Module, bf16: bool) -> torch.autocast:
    """bfloat16 where asked for, on the model's device."""
    return torch.autocast(device_of(model).type, dtype=torch.bfloat16, enabled=bf16)


def device_of(model: torch.nn.Module) -> torch.device:
    """Where the weights are."""
    return next(model.parameters()).device


def _segmentation_figures(masks: BoolArray, slices: SliceSet, indices: IntArray) -> dict[str, float | None]:
    labels = slices.labels(indices)
    ious = slice_ious(masks, labels)
    subjects = [slices.subjects[s] for s in slices.subject_of_slice[indices]]
    figures = {
        "iou_label_or_prediction": mean_iou_label_or_prediction(ious),
        "iou_label": mean_iou_label(ious, holds_label(labels)),
        "iou_subject": mean_over_subjects(subject_mean_ious(ious, subjects)),
    }
    return {name: None if math.isnan(value) else value for name, value in figures.items()}


def _reconstruction_figures(
    model: VariationalAutoencoder, slices: SliceSet, indices: IntArray, bf16: bool
) -> dict[str, float | None]:
    sums = np.zeros(2)
    with torch.inference_mode(), autocast(model, bf16):
        for part in _evaluation_parts(model, indices):
            images = whole_batch(slices, part).images.to(device_of(model))
            logits, posterior = model(images)
            figures = [cross_entropy(logits, images, "mean").item(), kl_divergence(posterior).item()]
            sums += len(part) * np.array(figures)
    reconstruction, kl = sums / len(indices)
    return {"reconstruction": float(reconstruction), "kl": float(kl)}


def _evaluation_parts(model: torch.nn.Module, indices: IntArray) -> list[IntArray]:
    model.eval()
    return [indices[start : start + EVALUATION_BATCH] for start in range(0, len(indices), EVALUATION_BATCH)]
