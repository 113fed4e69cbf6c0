"""Decoders: from a latent to one logit a pixel, with nothing but the latent to go by.

B batch, C channels, J I space, Z latent.
"""

from __future__ import annotations

from itertools import cycle, islice, pairwise

from torch import nn

from vaeseg.config import ArchitectureConfig
from vaeseg.models.blocks import ConvBlock, ResidualBlock, TransposeBlock
from vaeseg.models.encoder import (
    LATENT_DILATIONS,
    PAPER_INNERMOST_SIZE,
    feature_channels,
    paper_widths,
    working_widths,
)


def build_decoder(architecture: ArchitectureConfig) -> nn.Sequential:
    """Network from a latent (B, Z, S', S') to logits (B, 1, S, S).

    The paper's final Sigmoid is left to the losses and to `Segmenter.probability`, where it is exact for large logits.
    At base 16 and 256 x 256 the paper's has 4,994,641 parameters.
    """
    if architecture.kind == "paper":
        return _paper_decoder(architecture)
    return _spatial_decoder(architecture)


def _paper_decoder(architecture: ArchitectureConfig) -> nn.Sequential:
    widths = paper_widths(architecture)[::-1]
    features = feature_channels(architecture)
    layers: list[nn.Module] = [
        nn.Conv2d(architecture.latent_channels, features, 1),
        TransposeBlock(features, widths[0], kernel=PAPER_INNERMOST_SIZE, stride=1, padding=0),
    ]
    for inner, outer in zip([widths[0], *widths], widths, strict=False):
        layers += [ConvBlock(inner, outer), TransposeBlock(outer, outer)]
    layers.append(nn.Conv2d(widths[-1], 1, 3, padding=1))
    return nn.Sequential(*layers)


def _spatial_decoder(architecture: ArchitectureConfig) -> nn.Sequential:
    widths = working_widths(architecture)[::-1]
    layers: list[nn.Module] = [ConvBlock(architecture.latent_channels, widths[0])]
    dilations = islice(cycle(LATENT_DILATIONS), architecture.decoder_latent_blocks)
    layers += [ResidualBlock(widths[0], widths[0], dilation=dilation) for dilation in dilations]
    for inner, outer in pairwise(widths):
        layers += [TransposeBlock(inner, outer), ResidualBlock(outer, outer)]
    layers += _head(architecture, widths[-1])
    return nn.Sequential(*layers)


def _head(architecture: ArchitectureConfig, width: int) -> list[nn.Module]:
    patch = architecture.patch_size
    if patch == 1:
        full_size_width = max(1, width // 2)
        return [TransposeBlock(width, full_size_width), nn.Conv2d(full_size_width, 1, 3, padding=1)]
    return [nn.Conv2d(width, patch**2, 3, padding=1), nn.PixelShuffle(patch)]
