"""From HU to intensity."""

import torch

from vaeseg.models.preprocessing import normalise


def test_normalise_clips_outside_the_range() -> None:
    """Low becomes 0, high becomes 1, the middle a half, and nothing leaves [0, 1]."""
    slices = torch.tensor([[[-2000, -1000, -300, 400, 3000]]], dtype=torch.int16)
    intensity = normalise(slices, torch.tensor([-1000.0]), torch.tensor([400.0]))
    torch.testing.assert_close(intensity, torch.tensor([[[0.0, 0.0, 0.5, 1.0, 1.0]]]))


def test_normalise_makes_a_constant_volume_zero() -> None:
    """A volume of one value has no range; it becomes 0, not NaN."""
    intensity = normalise(torch.full((1, 2, 2), 40, dtype=torch.int16), torch.tensor([40.0]), torch.tensor([40.0]))
    assert torch.equal(intensity, torch.zeros(1, 2, 2))
