"""The variational autoencoder of stage one (Kingma and Welling 2014).

B batch, C channels, J I space, Z latent.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vaeseg.config import ArchitectureConfig
from vaeseg.models.decoder import build_decoder
from vaeseg.models.encoder import build_encoder, feature_channels

INITIAL_LOGVAR = -4.0
"""First log variance of a spatial latent: with 0, noise drowns the mean for the first thousands of steps of stage two
(standard deviation 0.8 against 0.45 after 800 steps of 16)."""


class Posterior(NamedTuple):
    """Diagonal normal over the latent; both (B, Z, J', I'), with J' = I' = 1 for a vector."""

    mean: Tensor
    logvar: Tensor


class VariationalAutoencoder(nn.Module):
    """Encoder, two 1 x 1 heads for the posterior, decoder; no other way from image to output.

    Args:
        architecture: which member of the family.
    """

    def __init__(self, architecture: ArchitectureConfig) -> None:
        super().__init__()
        self.architecture = architecture
        features = feature_channels(architecture)
        self.encoder = build_encoder(architecture)
        self.mean = nn.Conv2d(features, architecture.latent_channels, 1)
        self.logvar = nn.Conv2d(features, architecture.latent_channels, 1)
        self.decoder = build_decoder(architecture)
        if architecture.kind == "spatial" and self.logvar.bias is not None:
            nn.init.constant_(self.logvar.bias, INITIAL_LOGVAR)

    def encode(self, images: Tensor) -> Posterior:
        """Posterior of (B, 1, J, I) images with intensity in [0, 1]."""
        features = self.encoder(images)
        return Posterior(self.mean(features), self.logvar(features))

    def forward(self, images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Posterior]:
        """Logits (B, 1, J, I) and the posterior that they came from.

        Args:
            images: (B, 1, J, I), intensity in [0, 1].
            noise: standard normal of the latent's shape, for z = mean + exp(logvar / 2) noise; None decodes the mean.
        """
        posterior = self.encode(images)
        return self.decode(posterior, noise), posterior

    def decode(self, posterior: Posterior, noise: Tensor | None = None) -> Tensor:
        """Logits (B, 1, J, I) of a posterior; `noise` as for the whole network."""
        latent = posterior.mean
        if noise is not None:
            latent = latent + torch.exp(posterior.logvar / 2) * noise
        logits: Tensor = self.decoder(latent)
        return logits


def latent_shape(architecture: ArchitectureConfig, batch: int, size: int) -> tuple[int, int, int, int]:
    """Shape of the latent of `batch` images of side `size`."""
    side = 1 if architecture.kind == "paper" else size // architecture.downsampling
    return (batch, architecture.latent_channels, side, side)
