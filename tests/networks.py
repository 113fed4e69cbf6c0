"""Small networks of each kind, with the statistics of none."""

from __future__ import annotations

import torch
from torch import nn

from vaeseg.config import ArchitectureConfig
from vaeseg.models.segmenter import Segmenter

FAMILY = [
    ArchitectureConfig(kind="paper", image_size=64, base_width=4),
    ArchitectureConfig(kind="spatial", image_size=64, base_width=4, latent_channels=3, decoder_latent_blocks=2),
    ArchitectureConfig(kind="spatial", image_size=64, base_width=8, latent_channels=3, patch_size=4),
]


def with_statistics(network: Segmenter) -> Segmenter:
    """The network itself, with statistics and scales between 0.5 and 1.5."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for weight in (module.weight, module.bias, module.running_mean, module.running_var):
                assert weight is not None
                weight.data = torch.rand(weight.shape, generator=generator) + 0.5
    return network
