"""Losses against values worked out by hand."""

import math

import torch

from vaeseg.models.losses import cross_entropy, kl_divergence, soft_dice_loss
from vaeseg.models.vae import Posterior


def test_cross_entropy_of_even_odds_is_log_two_a_pixel() -> None:
    """Logit 0 costs ln 2 a pixel, summed or averaged."""
    logits, target = torch.zeros(2, 1, 3, 3), torch.ones(2, 1, 3, 3)
    torch.testing.assert_close(cross_entropy(logits, target, "mean"), torch.tensor(math.log(2)))
    torch.testing.assert_close(cross_entropy(logits, target, "sum"), torch.tensor(18 * math.log(2)))


def test_kl_is_zero_for_the_standard_normal_only() -> None:
    """No divergence at mean 0 and variance 1; half a nat at mean 1; (e - 2) / 2 at log variance 1."""
    zeros, ones = torch.zeros(2, 3, 1, 1), torch.ones(2, 3, 1, 1)
    assert kl_divergence(Posterior(zeros, zeros)).item() == 0.0
    torch.testing.assert_close(kl_divergence(Posterior(ones, zeros)), torch.tensor(0.5))
    torch.testing.assert_close(kl_divergence(Posterior(zeros, ones)), torch.tensor((math.e - 2) / 2))


def test_dice_loss_is_per_sample() -> None:
    """A perfect sample costs 0, a missed one of 9 pixels 9 / 10, and the loss is their mean."""
    label = torch.ones(2, 1, 3, 3)
    logits = torch.stack([torch.full((1, 3, 3), 50.0), torch.full((1, 3, 3), -50.0)])
    torch.testing.assert_close(soft_dice_loss(logits, label), torch.tensor(0.45))


def test_dice_loss_rewards_silence_on_an_empty_label() -> None:
    """Nothing found where nothing is costs nothing; something found costs nearly 1."""
    label = torch.zeros(1, 1, 10, 10)
    assert soft_dice_loss(torch.full_like(label, -50.0), label).item() < 1e-6
    assert soft_dice_loss(torch.full_like(label, 50.0), label).item() > 0.98


def test_losses_are_float32_under_bfloat16() -> None:
    """A network in bfloat16 has its losses summed in float32."""
    logits = torch.zeros(1, 1, 4, 4, dtype=torch.bfloat16)
    posterior = Posterior(logits, logits)
    losses = (cross_entropy(logits, logits, "sum"), kl_divergence(posterior), soft_dice_loss(logits, logits))
    assert all(loss.dtype == torch.float32 for loss in losses)
