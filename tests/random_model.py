"""A small segmenter without training: quick, and it finds something in phantoms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from vaeseg.config import ArchitectureConfig, PhantomConfig, PreprocessingConfig
from vaeseg.geometry.resample import to_model_grid
from vaeseg.inference.predictor import Predictor
from vaeseg.models.checkpoint import load_checkpoint, save_checkpoint
from vaeseg.models.provenance import Provenance
from vaeseg.models.segmenter import Segmenter
from vaeseg.phantom.patient import generate_patient

IMAGE_SIZE = 64
TUMOUR_SHARE = 0.01
"""Of all pixels of the first phantom, that it is made to call tumour."""


def write_random_model(path: Path, phantom: PhantomConfig) -> Path:
    """A segmenter with random weights and a threshold that leaves it some pixels of the phantoms."""
    torch.manual_seed(3)
    architecture = ArchitectureConfig(
        kind="spatial", image_size=IMAGE_SIZE, base_width=4, latent_channels=4, downsampling=8
    )
    model = Segmenter(architecture)
    preprocessing = PreprocessingConfig(image_size=IMAGE_SIZE)
    provenance = Provenance(data_digest="0" * 64, split_digest="0" * 64)
    save_checkpoint(path, model, preprocessing, provenance)
    threshold = _threshold(path, phantom)
    save_checkpoint(path, model, replace(preprocessing, threshold=threshold), provenance)
    return path


def write_overflowing_model(path: Path) -> Path:
    """A segmenter whose weights are finite, and its values are not."""
    architecture = ArchitectureConfig(kind="spatial", image_size=IMAGE_SIZE, base_width=2, latent_channels=2)
    model = Segmenter(architecture)
    for weight in model.decoder.parameters():
        weight.data.fill_(1e38)
    save_checkpoint(
        path, model, PreprocessingConfig(image_size=IMAGE_SIZE), Provenance(data_digest="", split_digest="")
    )
    return path


def _threshold(path: Path, phantom: PhantomConfig) -> float:
    patient = generate_patient(phantom.seed, 0, phantom)
    slices = to_model_grid(patient.volume_hu, patient.geometry.spacing_mm, IMAGE_SIZE)
    probabilities = Predictor(load_checkpoint(path), "cpu", precision="fp32").probabilities(slices)
    return float(np.quantile(probabilities, 1 - TUMOUR_SHARE))
