"""A phantom archive, and a model that finds something in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from archives import whole_archive

from vaeseg.config import ArchitectureConfig, PhantomConfig, PreprocessingConfig
from vaeseg.distributed.submit import Submission
from vaeseg.geometry.resample import to_model_grid
from vaeseg.inference.predictor import Predictor
from vaeseg.models.checkpoint import Provenance, load_checkpoint, save_checkpoint
from vaeseg.models.segmenter import Segmenter
from vaeseg.phantom.dicom_writer import write_dicom_archive
from vaeseg.phantom.patient import generate_patient

PHANTOM = PhantomConfig(n_patients=3, seed=11, image_size=128, z_extent_mm=45.0, slice_spacing_mm=3.0)
IMAGE_SIZE = 64
TUMOUR_SHARE = 0.01
"""Of all pixels, that the model without training is made to call tumour."""


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`dicom/` with three series, and `labels/`."""
    directory = tmp_path_factory.mktemp("archive")
    write_dicom_archive(directory, PHANTOM)
    return directory


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmenter with random weights and a threshold that leaves it some pixels of each phantom."""
    path = tmp_path_factory.mktemp("model") / "random.safetensors"
    torch.manual_seed(3)
    architecture = ArchitectureConfig(
        kind="spatial", image_size=IMAGE_SIZE, base_width=4, latent_channels=4, downsampling=8
    )
    model = Segmenter(architecture)
    preprocessing = PreprocessingConfig(image_size=IMAGE_SIZE)
    provenance = Provenance(data_digest="0" * 64, split_digest="0" * 64)
    save_checkpoint(path, model, preprocessing, provenance)
    threshold = _threshold(path)
    save_checkpoint(path, model, replace(preprocessing, threshold=threshold), provenance)
    return path


def _threshold(path: Path) -> float:
    patient = generate_patient(PHANTOM.seed, 0, PHANTOM)
    slices = to_model_grid(patient.volume_hu, patient.geometry.spacing_mm, IMAGE_SIZE)
    probabilities = Predictor(load_checkpoint(path)).probabilities(slices)
    return float(np.quantile(probabilities, 1 - TUMOUR_SHARE))


@pytest.fixture
def submission(archive: Path, model_path: Path, tmp_path: Path) -> Submission:
    """All three series, with labels, into a new store."""
    return whole_archive(archive, model_path, tmp_path / "store")
