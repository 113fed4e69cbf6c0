"""Encoders: from an image to the features that the posterior is read from.

B batch, C channels, J I space, Z latent.
"""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from vaeseg.config import ArchitectureConfig
from vaeseg.models.blocks import ConvBlock, ResidualBlock

PAPER_INNERMOST_SIZE = 8
"""The paper's strided stages stop at 8 x 8, which one 8 x 8 convolution turns into a vector."""

PAPER_FEATURES_PER_WIDTH = 64
"""1024 features at base width 16."""

LATENT_DILATIONS = (1, 2, 4)
"""Of the residual blocks at latent resolution: at 1/8 they see 112 pixels to each side, half a chest, which it takes to
tell a tumour from the dome of the diaphragm or from a great vessel."""


def build_encoder(architecture: ArchitectureConfig) -> nn.Sequential:
    """Network from (B, 1, S, S) to (B, `feature_channels`, S', S'); S' is 1 for `paper`, S / downsampling else.

    At base 16 and 256 x 256 the paper's has 4,357,552 parameters.
    """
    if architecture.kind == "paper":
        return _paper_encoder(architecture)
    return _spatial_encoder(architecture)


def feature_channels(architecture: ArchitectureConfig) -> int:
    """Channels between the encoder and its two heads."""
    if architecture.kind == "paper":
        return PAPER_FEATURES_PER_WIDTH * architecture.base_width
    return spatial_widths(architecture)[-1]


def paper_widths(architecture: ArchitectureConfig) -> list[int]:
    """Channels after each halving, outermost first: 16 32 32 64 64 for 256 x 256 and base 16.

    Another size drops or adds stages at the inner end, and the innermost always has four times the base.
    """
    halvings = (architecture.image_size // PAPER_INNERMOST_SIZE).bit_length() - 1
    factors = [1, 2, 2, 4][: halvings - 1] + [4] * max(1, halvings - 4)
    return [factor * architecture.base_width for factor in factors]


def spatial_widths(architecture: ArchitectureConfig) -> list[int]:
    """Channels after each halving, outermost first: the base, doubled each time."""
    halvings = architecture.downsampling.bit_length() - 1
    return [architecture.base_width << stage for stage in range(halvings)]


def working_widths(architecture: ArchitectureConfig) -> list[int]:
    """Those of `spatial_widths` at sizes that are worked at: patches leave out the larger ones."""
    halvings_of_patch = architecture.patch_size.bit_length() - 1
    return spatial_widths(architecture)[max(0, halvings_of_patch - 1) :]


def _paper_encoder(architecture: ArchitectureConfig) -> nn.Sequential:
    widths = paper_widths(architecture)
    features = feature_channels(architecture)
    layers: list[nn.Module] = [ConvBlock(1, widths[0], stride=2)]
    for outer, inner in pairwise(widths):
        layers += [ConvBlock(outer, inner), ConvBlock(inner, inner, stride=2)]
    layers += [nn.Conv2d(widths[-1], features, PAPER_INNERMOST_SIZE), nn.LeakyReLU(inplace=True)]
    return nn.Sequential(*layers)


def _spatial_encoder(architecture: ArchitectureConfig) -> nn.Sequential:
    widths = working_widths(architecture)
    layers: list[nn.Module] = [*_stem(architecture, widths[0]), ResidualBlock(widths[0], widths[0])]
    for outer, inner in pairwise(widths):
        layers.append(ResidualBlock(outer, inner, stride=2))
    layers += [ResidualBlock(widths[-1], widths[-1], dilation=dilation) for dilation in LATENT_DILATIONS]
    return nn.Sequential(*layers)


def _stem(architecture: ArchitectureConfig, width: int) -> list[nn.Module]:
    patch = architecture.patch_size
    if patch == 1:
        return [ConvBlock(1, width, stride=2)]
    return [nn.PixelUnshuffle(patch), ConvBlock(patch**2, width)]
