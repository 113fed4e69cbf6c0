"""The network in the form that its hardware runs fastest, compared with its plain form before it is used.

B batch, S side of the model grid.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vaeseg.config import Precision
from vaeseg.models.folding import folded
from vaeseg.models.fusing import fused, watched
from vaeseg.models.precision import number_type
from vaeseg.models.segmenter import Segmenter

logger = logging.getLogger(__name__)

Form = Literal["fused", "folded"]

TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.25}
"""Largest difference of the logits of a sample of noise from those of the plain float32 network, as a share of how far
the latter lie from their mean. bfloat16 has 0.03 for `lidc-v1`, 0.05 for `phantom-v1`, and 1.6 for a random one whose
logits differ by less than bfloat16 can tell; whatever computes something else has about 1."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A network that is ready to run."""

    network: Segmenter
    dtype: torch.dtype
    """That it computes in."""
    form: Form

    def logits(self, intensity: Tensor) -> Tensor:
        """Logits of tumour, (B, S, S) float32, of intensity (B, S, S) float32 in [0, 1] on the same device."""
        return self.network.logits(_images(intensity, self.dtype))[:, 0].float()


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

    Raises:
        torch.OutOfMemoryError: the device has no room for the network and a batch.
    """
    plain = _laid_out(folded(network), device, torch.float32).requires_grad_(False)
    size = network.architecture.image_size
    sample = torch.rand((batch, size, size), generator=torch.Generator().manual_seed(0)).to(device)
    with torch.inference_mode():
        expected, shapes = watched(plain, _images(sample, torch.float32))
        for form, dtype in _faster(device, number_type(precision, device)):
            try:
                made = fused(plain, shapes, dtype) if form == "fused" else _laid_out(deepcopy(plain), device, dtype)
                difference = _difference(made.logits(_images(sample, dtype)), expected)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, AttributeError) as error:  # no kernels for it, or a torch without the operators
                logger.warning("the model's %s form in %s cannot be used: %s", form, dtype, error)
                continue
            if difference <= TOLERANCES[dtype]:
                return Engine(network=made, dtype=dtype, form=form)
            logger.warning("the model's %s form in %s is off by %.2g: not used", form, dtype, difference)
    return Engine(network=plain, dtype=torch.float32, form="folded")


def _faster(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[Form, torch.dtype]]:
    """Forms to be tried, the fastest first."""
    can_fuse = device.type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    for each in dict.fromkeys((dtype, torch.float32)):
        if can_fuse:
            yield "fused", each
        if each is not torch.float32:
            yield "folded", each


def _difference(logits: Tensor, expected: Tensor) -> float:
    """NaN is no difference that could be tolerated."""
    return float((logits.float() - expected).norm() / (expected - expected.mean()).norm())


def _laid_out(network: Segmenter, device: torch.device, dtype: torch.dtype) -> Segmenter:
    placed: Segmenter = network.to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed


def _images(intensity: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, 1, S, S) in channels_last."""
    return intensity[:, None].to(dtype).contiguous(memory_format=torch.channels_last)
