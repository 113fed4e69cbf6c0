"""Losses of both stages, one figure a slice, in float32 whatever the network ran in.

B batch, C channels, J I space, Z latent.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vaeseg.models.vae import Posterior

DICE_SMOOTHING = 1.0
"""Pixels added above and below, so that an empty label rewards an empty prediction."""

_PIXELS = (1, 2, 3)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of logits against a target in [0, 1], both (B, 1, J, I); (B,) nats a pixel, mean."""
    return functional.binary_cross_entropy_with_logits(logits.float(), target.float(), reduction="none").mean(_PIXELS)


def squared_error(logits: Tensor, target: Tensor) -> Tensor:
    """Squared difference of the logits' sigmoid from a target in [0, 1], both (B, 1, J, I); (B,) mean over pixels."""
    return (torch.sigmoid(logits.float()) - target.float()).square().mean(_PIXELS)


def kl_divergence(posterior: Posterior) -> Tensor:
    """KL divergence of each slice's posterior from the standard normal (Kingma and Welling 2014, appendix B).

    Sum over the latent of -1/2 (1 + logvar - mean^2 - exp(logvar)); (B,) nats.
    """
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    return -0.5 * (1 + logvar - mean.square() - logvar.exp()).sum(_PIXELS)


def soft_dice_loss(logits: Tensor, label: Tensor) -> Tensor:
    """1 - soft Dice of each slice (Milletari et al. 2016); logits and label (B, 1, J, I), result (B,)."""
    probability = torch.sigmoid(logits.float())
    label = label.float()
    overlap = (probability * label).sum(_PIXELS)
    total = probability.sum(_PIXELS) + label.sum(_PIXELS)
    return 1 - (2 * overlap + DICE_SMOOTHING) / (total + DICE_SMOOTHING)
