"""The segmenter of stage two: the encoder, then a second decoder of the same shape that gives tumour instead of image.

B batch, C channels, J I space, Z latent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vaeseg.models.vae import VariationalAutoencoder


class Segmenter(VariationalAutoencoder):
    """The same networks as the autoencoder's, with logits of tumour."""

    def start_from(self, vae: VariationalAutoencoder) -> None:
        """Take over encoder, heads and decoder weights of stage one, as the paper does.

        Raises:
            ValueError: the two have different architectures.
        """
        if vae.architecture != self.architecture:
            raise ValueError(f"the autoencoder is {vae.architecture}, expected {self.architecture}")
        self.load_state_dict(vae.state_dict())

    def freeze_encoder(self) -> None:
        """Leave encoder and heads out of training."""
        for part in (self.encoder, self.mean, self.logvar):
            part.requires_grad_(False)

    def logits(self, images: Tensor) -> Tensor:
        """Logits of tumour from the posterior mean: (B, 1, J, I) intensity in [0, 1] to the same shape."""
        logits: Tensor = self.decoder(self.mean(self.encoder(images)))
        return logits

    def probability(self, images: Tensor) -> Tensor:
        """Probability of tumour from the posterior mean: (B, 1, J, I) intensity to the same shape, float32."""
        return torch.sigmoid(self.logits(images).float())
