"""What a model file says of its model, as plain values for JSON, tables and cards; what it does not say is None."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields
from typing import Any

import torch

from vaeseg.config import ArchitectureConfig
from vaeseg.models.checkpoint import Checkpoint
from vaeseg.models.provenance import UNKNOWN_TOKEN, are_all_seen
from vaeseg.models.vae import latent_shape

Record = dict[str, Any]

DEV_METRICS = ("dev_iou_label", "dev_iou_label_or_prediction", "dev_loss", "dev_total")
"""The one figure of a list is the first of these that a model has."""

_IN_SUMMARY = ("kind", "image_size", "base_width", "latent_channels", "downsampling")


def record_of(checkpoint: Checkpoint) -> Record:
    """Everything but the weights."""
    architecture, provenance = checkpoint.architecture, checkpoint.metadata
    _, *latent = latent_shape(architecture, 1, architecture.image_size)
    return {
        "kind": checkpoint.kind,
        "digest": checkpoint.digest,
        "content_digest": checkpoint.described["content_digest"],
        "format_version": checkpoint.described["format_version"],
        "precision": "half" if torch.float16 in checkpoint.stored_types.values() else "single",
        "summary": summary(architecture),
        "architecture": asdict(architecture),
        "n_parameters": _n_parameters(checkpoint),
        "latent": {
            "shape": latent,
            "numbers": math.prod(latent),
            "input_numbers": architecture.image_size**2,
        },
        "preprocessing": asdict(checkpoint.preprocessing),
        "data_digest": provenance.data_digest or None,
        "split_digest": provenance.split_digest or None,
        "seen_tokens": len({*provenance.seen_tokens} - {UNKNOWN_TOKEN}) or None,
        "seen_tokens_are_all": are_all_seen(provenance.seen_tokens),
        "training": _training(provenance.training),
        "workers": provenance.workers,
        "computed_in": provenance.computed_in,
        "metrics": dict(provenance.metrics),
        "parent_digest": provenance.parent_digest or None,
        "commit": provenance.commit or None,
        "vaeseg_version": provenance.vaeseg_version or None,
    }


def summary(architecture: ArchitectureConfig) -> str:
    """One line, such as "spatial 256, base 16, latent 16x32x32"; what is not as usual besides is named behind it."""
    _, *latent = latent_shape(architecture, 1, architecture.image_size)
    unusual = [
        f"{field.name} {getattr(architecture, field.name)}"
        for field in fields(architecture)
        if field.name not in _IN_SUMMARY and getattr(architecture, field.name) != field.default
    ]
    shape = "x".join(map(str, latent))
    first = f"{architecture.kind} {architecture.image_size}, base {architecture.base_width}, latent {shape}"
    return ", ".join([first, *unusual])


def dev_metric(record: Record) -> tuple[str, float] | None:
    """Name and value of the one figure that a list shows."""
    metrics = record["metrics"]
    return next(((name, metrics[name]) for name in DEV_METRICS if metrics.get(name) is not None), None)


def _n_parameters(checkpoint: Checkpoint) -> int:
    return sum(weight.numel() for weight in checkpoint.network().parameters())


def _training(text: str) -> Record | None:
    """The settings; None where they were not recorded, or are no settings."""
    try:
        settings = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return settings if isinstance(settings, dict) and settings else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no setting")
