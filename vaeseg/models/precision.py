"""The number type that a network computes in."""

from __future__ import annotations

import torch

from vaeseg.config import Precision


def number_type(precision: Precision, device: torch.device) -> torch.dtype:
    """bfloat16 where it is ordered or, with `auto`, where the hardware multiplies it faster than float32.

    A CPU without the instructions is ten times slower in bfloat16.
    """
    is_bf16 = _multiplies_bf16(device) if precision == "auto" else precision == "bf16"
    return torch.bfloat16 if is_bf16 else torch.float32


def name_of(number: torch.dtype) -> str:
    """Such as `float32`."""
    return str(number).removeprefix("torch.")


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())
