"""What is compared: the improved recipe, each of its parts left out, the frozen encoder, and U-Nets as anchors.

All go through `vaeseg.training`: the same split, loop, augmentation and evaluation; a recipe says what is changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from vaeseg.config import ArchitectureConfig
from vaeseg.models.segmenter import Segmenter
from vaeseg.models.vae import Posterior, VariationalAutoencoder


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Changes to the preset `improved`, as `vaeseg-batch train --set` takes them."""

    decoder: Mapping[str, str] = field(default_factory=dict)
    """Of stage two and of the network."""
    vae: Mapping[str, str] | None = None
    """Of a stage one before it; None trains stage two from nothing."""
    intensity: str = "slice"
    """`vaeseg-batch prepare --intensity`."""
    anchor: int = 0
    """Base width of a U-Net in place of the network; 0 for none."""


FROZEN_NETWORK = {
    "base_width": "24", "latent_channels": "8", "downsampling": "4", "patch_size": "4", "decoder_latent_blocks": "5",
}  # fmt: skip

RECIPES: Mapping[str, Recipe] = {
    "improved": Recipe(),
    "running mean": Recipe(decoder={"ema_decay": "0.999"}),
    "without warps": Recipe(decoder={"warp_share": "0"}),
    "without warps and noise": Recipe(
        decoder={"warp_share": "0", "gamma_jitter": "0", "noise": "0", "intensity_jitter": "0.05"}
    ),
    "no augmentation": Recipe(
        decoder={
            "warp_share": "0",
            "gamma_jitter": "0",
            "noise": "0",
            "intensity_jitter": "0",
            "augmentation": "none",
        }
    ),
    "without Dice": Recipe(decoder={"dice_weight": "0"}),
    "without KL": Recipe(decoder={"kl_weight": "0"}),
    "posterior mean in training": Recipe(decoder={"latent": "mean", "kl_weight": "0"}),
    "learning rate 2e-3": Recipe(decoder={"learning_rate": "2e-3"}),
    "without patches": Recipe(decoder={"patch_size": "1"}),
    "three blocks in the decoder": Recipe(decoder={"decoder_latent_blocks": "3"}),
    "three blocks and running mean": Recipe(decoder={"decoder_latent_blocks": "3", "ema_decay": "0.999"}),
    "latent of 8 channels": Recipe(decoder={"latent_channels": "8"}),
    "base width 24": Recipe(decoder={"base_width": "24"}),
    "base width 32": Recipe(decoder={"base_width": "32"}),
    "2 x 2 pixels folded": Recipe(decoder={"patch_size": "2"}),
    "2 x 2 pixels folded and base width 24": Recipe(decoder={"patch_size": "2", "base_width": "24"}),
    "fixed window": Recipe(intensity="window:0:255"),
    "after stage one": Recipe(vae={}),
    "frozen encoder": Recipe(
        decoder={
            "freeze_encoder": "true",
            "latent": "mean",
            "kl_weight": "0",
            "learning_rate": "3e-3",
            "noise": "0.02",
            "ema_decay": "0.999",
        },
        vae={**FROZEN_NETWORK, "learning_rate": "3e-3", "noise": "0", "kl_weight": "1e-4", "ema_decay": "0.999"},
        intensity="volume",
    ),
    "U-Net": Recipe(decoder={"latent": "mean", "kl_weight": "0"}, anchor=18),
    "U-Net of 1.9 million": Recipe(decoder={"latent": "mean", "kl_weight": "0"}, anchor=32),
}
"""By name, as the table of `docs/accuracy.md` has them."""


class UNet(Segmenter):
    """Plain U-Net with skip connections (Ronneberger et al. 2015): at base width 18 with a third more parameters.

    The anchor, and no member of the family: it answers to the loop like a segmenter whose latent is empty.
    """

    def __init__(self, base_width: int, levels: int = 4) -> None:
        nn.Module.__init__(self)
        self.architecture = ArchitectureConfig(kind="spatial", image_size=96)
        widths = [base_width << level for level in range(levels)]
        self.down = nn.ModuleList(_double(outer, inner) for outer, inner in pairwise([1, *widths]))
        self.up = nn.ModuleList(_double(inner + outer, outer) for outer, inner in pairwise(widths))
        self.head = nn.Conv2d(base_width, 1, 1)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Posterior]:
        """Logits of (B, 1, J, I) images, J and I multiples of 8."""
        skipped: list[Tensor] = []
        features = images
        for block in self.down:
            features = functional.max_pool2d(features, 2) if skipped else features
            features = block(features)
            skipped.append(features)
        for block, skip in zip(list(self.up)[::-1], skipped[-2::-1], strict=True):
            features = functional.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
            features = block(torch.cat([features, skip], dim=1))
        nothing = torch.zeros(len(images), 1, 1, 1, device=images.device)
        return self.head(features), Posterior(nothing, nothing)


def n_parameters(model: VariationalAutoencoder) -> int:
    """All weights that a training moves."""
    return sum(weight.numel() for weight in model.parameters())


def _double(in_channels: int, out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers += [
            nn.Conv2d(channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.LeakyReLU(),
        ]  # fmt: skip
    return nn.Sequential(*layers)
