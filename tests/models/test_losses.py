"""Losses against values worked out by hand; each gives one figure a slice."""

import math

import torch

from vaeseg.models.losses import cross_entropy, kl_divergence, soft_dice_loss, squared_error
from vaeseg.models.vae import Posterior


def test_cross_entropy_of_even_odds_is_log_two_a_pixel() -> None:
    """Logit 0 costs ln 2 a pixel; a certain logit costs nothing, or its size."""
    logits = torch.stack([torch.full((1, 3, 3), value) for value in (0.0, 50.0, -50.0)])
    expected = torch.tensor([math.log(2), 0.0, 50.0])
    torch.testing.assert_close(cross_entropy(logits, torch.ones(3, 1, 3, 3)), expected)


def test_squared_error_is_that_of_the_sigmoid() -> None:
    """One half against one is a quarter."""
    torch.testing.assert_close(squared_error(torch.zeros(2, 1, 3, 3), torch.ones(2, 1, 3, 3)), torch.full((2,), 0.25))


def test_kl_is_zero_for_the_standard_normal_only() -> None:
    """Nothing at mean 0 and variance 1; half a nat a number at mean 1; (e - 2) / 2 at log variance 1."""
    zeros, ones = torch.zeros(2, 3, 1, 1), torch.ones(2, 3, 1, 1)
    torch.testing.assert_close(kl_divergence(Posterior(zeros, zeros)), torch.zeros(2))
    torch.testing.assert_close(kl_divergence(Posterior(ones, zeros)), torch.full((2,), 1.5))
    torch.testing.assert_close(kl_divergence(Posterior(zeros, ones)), torch.full((2,), 3 * (math.e - 2) / 2))


def test_dice_loss_is_per_slice() -> None:
    """A perfect slice costs 0, a missed one of 9 pixels 9 / 10."""
    label = torch.ones(2, 1, 3, 3)
    logits = torch.stack([torch.full((1, 3, 3), 50.0), torch.full((1, 3, 3), -50.0)])
    torch.testing.assert_close(soft_dice_loss(logits, label), torch.tensor([0.0, 0.9]))


def test_dice_loss_rewards_silence_on_an_empty_label() -> None:
    """Nothing found where nothing is costs nothing; something found costs nearly 1."""
    label = torch.zeros(1, 1, 10, 10)
    assert soft_dice_loss(torch.full_like(label, -50.0), label).item() < 1e-6
    assert soft_dice_loss(torch.full_like(label, 50.0), label).item() > 0.98


def test_losses_are_float32_under_bfloat16() -> None:
    """A network in bfloat16 has its losses summed in float32."""
    logits = torch.zeros(1, 1, 4, 4, dtype=torch.bfloat16)
    losses = (cross_entropy(logits, logits), kl_divergence(Posterior(logits, logits)), soft_dice_loss(logits, logits))
    assert all(loss.dtype == torch.float32 for loss in losses)
