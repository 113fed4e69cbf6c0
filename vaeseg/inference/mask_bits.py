"""Masks as bits: an eighth of what would cross the bus from a GPU.

B batch, S side of the model grid.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from vaeseg.records import BoolArray


def to_bits(masks: Tensor) -> Tensor:
    """(B, S, S) bool to (B, N) uint8 on the same device, N the S * S pixels over 8, rounded up, the first pixel the
    highest bit, as `np.packbits` has it."""
    flat = masks.flatten(1).to(torch.uint8)
    octets = functional.pad(flat, (0, -flat.shape[1] % 8)).view(len(flat), -1, 8)
    places = torch.arange(7, -1, -1, dtype=torch.uint8, device=masks.device)
    bits: Tensor = (octets << places).sum(2, dtype=torch.uint8)
    return bits


def from_bits(bits: npt.NDArray[np.uint8], size: int) -> BoolArray:
    """What `to_bits` was given, for S = `size`."""
    pixels = np.unpackbits(bits, axis=1, count=size * size)
    return pixels.reshape(len(bits), size, size).view(np.bool_)
