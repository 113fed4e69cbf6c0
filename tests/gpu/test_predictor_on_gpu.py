"""The engine on a CUDA device; left out where torch sees none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vaeseg.config import PhantomConfig, Precision
from vaeseg.evaluation.overlap import dice
from vaeseg.geometry.resample import to_model_grid
from vaeseg.inference.predictor import Predictor
from vaeseg.models.checkpoint import load_checkpoint
from vaeseg.models.files import resolve_model
from vaeseg.phantom.patient import generate_patient

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch sees none"),
]

PHANTOM = PhantomConfig(n_patients=1, seed=3, image_size=256, z_extent_mm=90.0, slice_spacing_mm=2.0)


@pytest.mark.parametrize(("precision", "least_dice"), [("fp32", 0.999), ("bf16", 0.95)])
def test_a_gpu_gives_the_masks_of_a_cpu(precision: Precision, least_dice: float) -> None:
    """Up to rounding; twice the same, bit for bit; and masks are the thresholded probabilities."""
    checkpoint = load_checkpoint(resolve_model("phantom-v1"))
    patient = generate_patient(PHANTOM.seed, 0, PHANTOM)
    slices = to_model_grid(patient.volume_hu, patient.geometry.spacing_mm, 256)
    reference = Predictor(checkpoint, "cpu", precision="fp32").segment(slices)
    assert reference.sum() > 100
    predictor = Predictor(checkpoint, "cuda", precision=precision)
    assert predictor.computes_in == {"fp32": "float32", "bf16": "bfloat16"}[precision]
    mask = predictor.segment(slices)
    assert dice(mask, reference) > least_dice
    assert np.array_equal(mask, Predictor(checkpoint, "cuda", precision=precision).segment(slices))
    assert np.array_equal(mask, predictor.probabilities(slices) >= checkpoint.preprocessing.threshold)
