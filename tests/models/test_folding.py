"""Folding changes how a network computes, not what."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vaeseg.config import ArchitectureConfig
from vaeseg.models.folding import folded
from vaeseg.models.segmenter import Segmenter

FAMILY = [
    ArchitectureConfig(kind="paper", image_size=64, base_width=4),
    ArchitectureConfig(kind="spatial", image_size=64, base_width=4, latent_channels=3, decoder_latent_blocks=2),
    ArchitectureConfig(kind="spatial", image_size=64, base_width=8, latent_channels=3, patch_size=4),
]


@pytest.mark.parametrize("architecture", FAMILY, ids=["paper", "spatial", "patches"])
def test_a_folded_network_is_the_same_function(architecture: ArchitectureConfig) -> None:
    """With statistics and scales that are not those of an untrained network; nothing is left to normalise."""
    network = with_statistics(Segmenter(architecture).eval())
    images = torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = network(images)[0]
        after = folded(network)(images)[0]
        assert not torch.equal(before, torch.zeros_like(before))
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5 * float(before.abs().max()))
        torch.testing.assert_close(network(images)[0], before, rtol=0, atol=0)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded(network).modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def with_statistics(network: Segmenter) -> Segmenter:
    """The network itself, with statistics and scales between 0.5 and 1.5."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for weight in (module.weight, module.bias, module.running_mean, module.running_var):
                assert weight is not None
                weight.data = torch.rand(weight.shape, generator=generator) + 0.5
    return network
