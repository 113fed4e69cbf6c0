"""From HU on the model grid to the intensity that a network sees; one place for training and inference."""

from __future__ import annotations

import torch
from torch import Tensor

from vaeseg.geometry.intensity import intensity_ranges

__all__ = ["intensity_ranges", "normalise"]


def normalise(slices_hu: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Intensity in [0, 1], float32.

    Args:
        slices_hu: (B, S, S) int16.
        low: (B,) float32, HU that become 0.
        high: (B,) float32, HU that become 1; a slice with high = low becomes 0.
    """
    span = (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    return ((slices_hu.float() - low[:, None, None]) / span[:, None, None]).clamp(0.0, 1.0)
