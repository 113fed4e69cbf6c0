"""Fused convolutions are the same function as those they are made of."""

from __future__ import annotations

import pytest
import torch
from networks import FAMILY, with_statistics
from torch import nn

from vaeseg.config import ArchitectureConfig
from vaeseg.models.folding import folded
from vaeseg.models.fusing import FusedConvolution, FusedTiles, fused, watched
from vaeseg.models.segmenter import Segmenter

WIDER = ArchitectureConfig(kind="spatial", image_size=64, base_width=8, latent_channels=3, downsampling=16)


@pytest.mark.parametrize("architecture", [*FAMILY, WIDER], ids=["paper", "spatial", "patches", "deeper"])
def test_a_fused_network_is_the_same_function(architecture: ArchitectureConfig) -> None:
    """Every convolution on the way from image to logits, with activations, sums and shortcuts, for full passes and
    single slices; nothing of the given network is touched."""
    torch.manual_seed(0)
    plain = folded(with_statistics(Segmenter(architecture).eval())).to(memory_format=torch.channels_last)
    images = torch.rand(4, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, shapes = watched(plain, images)
        network = fused(plain, shapes, torch.float32)
        assert expected.std() > 0
        for part in (images, images[:1]):
            found = network.logits(part.contiguous(memory_format=torch.channels_last))
            torch.testing.assert_close(found, expected[: len(part)], rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
        torch.testing.assert_close(plain.logits(images), expected, rtol=0, atol=0)


def test_activations_are_part_of_the_convolutions() -> None:
    """Of the paper's network none is left beside them, and its end goes over tiles."""
    plain = folded(Segmenter(FAMILY[0]).eval())
    with torch.inference_mode():
        _, shapes = watched(plain, torch.rand(1, 1, 64, 64))
        network = fused(plain, shapes, torch.float32)
    way = [module for part in (network.encoder, network.mean, network.decoder) for module in part.modules()]
    assert sum(isinstance(module, FusedConvolution) for module in way) == _n_convolutions(plain) > 10
    assert sum(isinstance(module, FusedTiles) for module in way) == 1
    assert not any(isinstance(module, nn.LeakyReLU | nn.Conv2d | nn.ConvTranspose2d) for module in way)


def _n_convolutions(network: Segmenter) -> int:
    parts = (network.encoder, network.mean, network.decoder)
    return sum(isinstance(m, nn.Conv2d | nn.ConvTranspose2d) for part in parts for m in part.modules())
