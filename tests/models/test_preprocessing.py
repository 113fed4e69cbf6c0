"""From HU to intensity."""

import numpy as np
import torch

from vaeseg.config import PreprocessingConfig
from vaeseg.models.preprocessing import intensity_range, normalise


def test_window_is_the_same_for_every_volume() -> None:
    """A window does not look at the volume."""
    volume = np.array([[[-5, 7]]], dtype=np.int16)
    config = PreprocessingConfig(window_low_hu=-1000, window_high_hu=400)
    assert intensity_range(volume, config) == (-1000.0, 400.0)


def test_minmax_is_the_volumes_own_range() -> None:
    """Min-max takes the range of the whole volume, not of a slice."""
    volume = np.array([[[-5, 7]], [[100, 3]]], dtype=np.int16)
    assert intensity_range(volume, PreprocessingConfig(intensity="minmax")) == (-5.0, 100.0)


def test_normalise_clips_outside_the_range() -> None:
    """Low becomes 0, high becomes 1, the middle a half, and nothing leaves [0, 1]."""
    slices = torch.tensor([[[-2000, -1000, -300, 400, 3000]]], dtype=torch.int16)
    intensity = normalise(slices, torch.tensor([-1000.0]), torch.tensor([400.0]))
    torch.testing.assert_close(intensity, torch.tensor([[[0.0, 0.0, 0.5, 1.0, 1.0]]]))


def test_normalise_makes_a_constant_volume_zero() -> None:
    """A volume of one value has no range; it becomes 0, not NaN."""
    intensity = normalise(torch.full((1, 2, 2), 40, dtype=torch.int16), torch.tensor([40.0]), torch.tensor([40.0]))
    assert torch.equal(intensity, torch.zeros(1, 2, 2))
