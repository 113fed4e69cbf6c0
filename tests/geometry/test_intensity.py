"""Whole steps of intensity say what floating point says, to within half a step."""

import numpy as np
import pytest
import torch

from vaeseg.config import PreprocessingConfig
from vaeseg.geometry.intensity import intensity_range, quantised
from vaeseg.models.preprocessing import normalise

VOLUME = np.random.default_rng(7).integers(-1024, 3072, (3, 20, 20)).astype(np.int16)
PREPROCESSING = [
    PreprocessingConfig(intensity="minmax"),
    PreprocessingConfig(window_low_hu=-1000, window_high_hu=400),
    PreprocessingConfig(window_low_hu=-160.5, window_high_hu=239.25),
]


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("preprocessing", PREPROCESSING)
def test_quantised_agrees_with_what_inference_sees(preprocessing: PreprocessingConfig, bits: int) -> None:
    """A network is trained on steps and applied to float32: both lie within half a step of each other everywhere."""
    low, high = intensity_range(VOLUME, preprocessing)
    steps = quantised(VOLUME, (low, high), bits)
    exact = normalise(torch.from_numpy(VOLUME), torch.full((3,), low), torch.full((3,), high)).numpy()
    full = 2**bits - 1
    assert steps.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert np.abs(steps.astype(np.float64) / full - exact).max() <= 0.5 / full + 1e-6
    assert (steps.min(), steps.max()) == (0, full)


def test_a_constant_volume_is_zero() -> None:
    """A volume of one value has no range; it becomes 0 as in floating point."""
    assert not quantised(np.full((1, 2, 2), 40, dtype=np.int16), (40.0, 40.0), 8).any()


def test_a_view_in_another_order_is_the_same() -> None:
    """Mirrored and transposed volumes are looked up voxel by voxel."""
    view = VOLUME.transpose(0, 2, 1)[:, ::-1]
    assert np.array_equal(quantised(view, (0, 100), 8), quantised(np.ascontiguousarray(view), (0, 100), 8))
