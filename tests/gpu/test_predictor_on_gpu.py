"""The engine on a CUDA device; left out where torch sees none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.random_model import IMAGE_SIZE, write_random_model
from vaeseg.config import PhantomConfig
from vaeseg.geometry.resample import to_model_grid
from vaeseg.inference.predictor import Predictor
from vaeseg.models.checkpoint import load_checkpoint
from vaeseg.phantom.patient import generate_patient

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch sees none")

PHANTOM = PhantomConfig(n_patients=1, seed=3, image_size=128, z_extent_mm=90.0, slice_spacing_mm=2.0)


def test_a_gpu_gives_the_masks_of_a_cpu(tmp_path: Path) -> None:
    """In float32 all but a pixel of a thousand, in bfloat16 all but one of a hundred; twice the same, bit for bit; and
    masks are the thresholded probabilities."""
    checkpoint = load_checkpoint(write_random_model(tmp_path / "m.safetensors", PHANTOM))
    patient = generate_patient(PHANTOM.seed, 0, PHANTOM)
    slices = to_model_grid(patient.volume_hu, patient.geometry.spacing_mm, IMAGE_SIZE)
    reference = Predictor(checkpoint, "cpu", precision="fp32").segment(slices)
    assert reference.any()
    for precision, share in (("fp32", 1e-3), ("bf16", 1e-2)):
        predictor = Predictor(checkpoint, "cuda", precision=precision)  # type: ignore[arg-type]
        mask = predictor.segment(slices)
        assert (mask != reference).mean() < share
        assert np.array_equal(mask, Predictor(checkpoint, "cuda", precision=precision).segment(slices))  # type: ignore[arg-type]
        assert np.array_equal(mask, predictor.probabilities(slices) >= checkpoint.preprocessing.threshold)
