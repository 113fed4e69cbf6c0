"""Losses of both stages, in float32 whatever the network ran in.

B batch, C channels, J I space, Z latent.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from vaeseg.models.vae import Posterior

DICE_SMOOTHING = 1.0
"""Pixels added above and below, so that an empty label rewards an empty prediction."""


def cross_entropy(logits: Tensor, target: Tensor, reduction: Literal["sum", "mean"]) -> Tensor:
    """Binary cross-entropy of logits against a target in [0, 1], both (B, 1, J, I); a scalar."""
    return functional.binary_cross_entropy_with_logits(logits.float(), target.float(), reduction=reduction)


def kl_divergence(posterior: Posterior) -> Tensor:
    """KL divergence from the standard normal, mean over batch and latent (Kingma and Welling 2014, appendix B).

    Mean over elements of -1/2 (1 + logvar - mean^2 - exp(logvar)); in nats per latent number.
    """
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    return -0.5 * torch.mean(1 + logvar - mean.square() - logvar.exp())


def soft_dice_loss(logits: Tensor, label: Tensor) -> Tensor:
    """1 - soft Dice of each sample, then their mean (Milletari et al. 2016); logits and label (B, 1, J, I)."""
    probability = torch.sigmoid(logits.float())
    label = label.float()
    overlap = (probability * label).sum(dim=(1, 2, 3))
    total = probability.sum(dim=(1, 2, 3)) + label.sum(dim=(1, 2, 3))
    return (1 - (2 * overlap + DICE_SMOOTHING) / (total + DICE_SMOOTHING)).mean()
