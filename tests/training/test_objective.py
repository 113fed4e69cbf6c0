"""What is minimised, and in which precision."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from training_factories import SMALL, TINY, slice_set

from vaeseg.config import Precision, TrainingConfig, training_preset
from vaeseg.models.segmenter import Segmenter
from vaeseg.models.vae import VariationalAutoencoder
from vaeseg.training.objective import autocast, stage_losses, step_loss
from vaeseg.training.sources import batch_of

LATENT_NUMBERS, PIXELS = 2 * 8 * 8, 64 * 64


def losses_of(model: VariationalAutoencoder, config: TrainingConfig) -> dict[str, torch.Tensor]:
    batch = batch_of(slice_set().take(np.arange(4)), torch.device("cpu"))
    logits, posterior = model(batch.images)
    return stage_losses(model, logits, posterior, batch, config)


def test_stage_two_is_the_sum_of_its_parts() -> None:
    """BCE + weight Dice + weight KL, the KL as its mean over latent numbers; one figure a slice."""
    losses = losses_of(Segmenter(SMALL), replace(TINY, dice_weight=0.5, kl_weight=0.1))
    assert all(figure.shape == (4,) for figure in losses.values())
    kl = losses["kl"] * PIXELS / LATENT_NUMBERS
    torch.testing.assert_close(losses["loss"], losses["bce"] + 0.5 * losses["dice"] + 0.1 * kl)


def test_stage_one_is_reconstruction_and_kl() -> None:
    """BCE or squared error + weight KL; `total` is nats a pixel, whatever is minimised."""
    config = replace(TINY, kl_weight=0.1)
    losses = losses_of(VariationalAutoencoder(SMALL), config)
    penalty = 0.1 * losses["kl"] * PIXELS / LATENT_NUMBERS
    torch.testing.assert_close(losses["loss"], losses["reconstruction"] + penalty)
    torch.testing.assert_close(losses["total"], losses["reconstruction"] + losses["kl"])
    squared = losses_of(VariationalAutoencoder(SMALL), replace(config, reconstruction_loss="mse"))
    penalty = 0.1 * squared["kl"] * PIXELS / LATENT_NUMBERS
    torch.testing.assert_close(squared["loss"], squared["mse"] + penalty)


def test_summed_cross_entropy_counts_every_pixel() -> None:
    """The paper's sum over pixels is the mean times their number, and over slices it adds up."""
    torch.manual_seed(1)
    model = Segmenter(SMALL).eval()
    config = replace(TINY, dice_weight=0.0, kl_weight=0.0)
    mean, total = (losses_of(model, replace(config, bce_reduction=kind))["loss"] for kind in ("mean", "sum"))
    torch.testing.assert_close(total, PIXELS * mean)
    summed = step_loss(total, 4, 1, replace(config, bce_reduction="sum"))
    assert summed.item() == pytest.approx(total.sum().item())
    assert step_loss(mean, 4, 1, config).item() == pytest.approx(mean.mean().item())


def test_gradients_averaged_over_workers_are_those_of_the_step() -> None:
    """Shares of one and three slices, averaged over two workers, weigh each slice alike."""
    losses = torch.tensor([4.0, 1.0, 2.0, 5.0])
    parts = [step_loss(own, 4, 2, TINY) for own in (losses[:1], losses[1:])]
    assert sum(parts) / 2 == pytest.approx(losses.mean().item())


@pytest.mark.parametrize(("precision", "computed_in"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_an_order_for_a_number_type_is_followed(precision: Precision, computed_in: torch.dtype) -> None:
    """By every product within the context."""
    layer = torch.nn.Linear(2, 2)
    with autocast(layer, replace(TINY, precision=precision)):
        assert layer(torch.zeros(1, 2)).dtype is computed_in


@pytest.mark.parametrize("stage", ["vae", "decoder"])
@pytest.mark.parametrize("preset", ["paper", "improved"])
def test_presets_leave_the_number_type_to_the_hardware(
    stage: Literal["vae", "decoder"], preset: Literal["paper", "improved"]
) -> None:
    """The paper names none, and float32 takes twice as long where there is bfloat16."""
    assert training_preset(stage, preset).precision == "auto"
