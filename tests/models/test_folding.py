"""Folding changes how a network computes, not what."""

from __future__ import annotations

import pytest
import torch
from networks import FAMILY, with_statistics
from torch import nn

from vaeseg.config import ArchitectureConfig
from vaeseg.models.folding import folded
from vaeseg.models.segmenter import Segmenter


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
