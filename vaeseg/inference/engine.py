"""The network in the form that its hardware runs fastest, compared with its plain form before it is used.

B batch, S side of the model grid.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from vaeseg.config import Precision
from vaeseg.models.folding import folded
from vaeseg.models.fusing import fused
from vaeseg.models.precision import number_type
from vaeseg.models.segmenter import Segmenter

logger = logging.getLogger(__name__)

TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.05}
"""Largest difference of the logits from those of the plain float32 network, as a share of their norm; on a sample of
noise bfloat16 has 0.0003 to 0.006 for eleven networks of the family, and wrong kernels about 1."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A network that is ready to run."""

    network: Segmenter
    dtype: torch.dtype
    """That it computes in."""
    form: str
    """`fused` or `folded`."""

    def probability(self, intensity: Tensor) -> Tensor:
        """Probability of tumour, (B, S, S) float32, of intensity (B, S, S) float32 in [0, 1] on the same device."""
        return self.network.probability(_images(intensity, self.dtype))[:, 0]


def engine_for(network: Segmenter, device: torch.device, precision: Precision, batch: int) -> Engine:
    """The fastest form of a network that gives what its plain form gives.

    Args:
        network: in evaluation mode.
        device: where it is to run.
        precision: numbers that it may compute in.
        batch: slices that it will be given at a time.

    Returns:
        On a CPU convolutions and activations are one kernel where this torch and this processor have it. A form that
        fails, or whose logits on a sample differ by more than `TOLERANCES`, is left out with a warning; the last
        resort is float32 with normalisations folded.
    """
    plain = _laid_out(folded(network), device, torch.float32)
    size = network.architecture.image_size
    sample = torch.rand((batch, size, size), generator=torch.Generator().manual_seed(0)).to(device)
    with torch.inference_mode():
        expected = plain.logits(_images(sample, torch.float32))
        for engine in _faster(plain, sample, device, number_type(precision, device)):
            difference = _difference(engine.network.logits(_images(sample, engine.dtype)), expected)
            if difference <= TOLERANCES[engine.dtype]:
                return engine
            logger.warning(
                "the model's %s form in %s is wrong by %.2g: not used", engine.form, engine.dtype, difference
            )
    return Engine(network=plain, dtype=torch.float32, form="folded")


def _faster(plain: Segmenter, sample: Tensor, device: torch.device, dtype: torch.dtype) -> Iterator[Engine]:
    """Forms to be tried, the fastest first."""
    if device.type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        try:
            yield Engine(network=fused(plain, _images(sample, torch.float32), dtype), dtype=dtype, form="fused")
        except (RuntimeError, AttributeError) as error:
            logger.warning("convolutions are not fused in %s: %s", dtype, error)
    if dtype is not torch.float32:
        yield Engine(network=_laid_out(deepcopy(plain), device, dtype), dtype=dtype, form="folded")


def _difference(logits: Tensor, expected: Tensor) -> float:
    """Of the norm of what was expected; NaN is no difference that could be tolerated."""
    return float((logits.float() - expected).norm() / expected.norm())


def _laid_out(network: Segmenter, device: torch.device, dtype: torch.dtype) -> Segmenter:
    placed: Segmenter = network.to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed


def _images(intensity: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, 1, S, S) in channels_last."""
    return intensity[:, None].to(dtype).contiguous(memory_format=torch.channels_last)
