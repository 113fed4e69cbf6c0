"""What training minimises, slice by slice, and in which precision the network runs.

B batch, J I space, Z latent.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vaeseg.config import TrainingConfig
from vaeseg.models.losses import cross_entropy, kl_divergence, soft_dice_loss, squared_error
from vaeseg.models.precision import number_type
from vaeseg.models.segmenter import Segmenter
from vaeseg.models.vae import Posterior, VariationalAutoencoder
from vaeseg.training.batches import Batch


def stage_losses(
    model: VariationalAutoencoder, logits: Tensor, posterior: Posterior, batch: Batch, config: TrainingConfig
) -> dict[str, Tensor]:
    """`loss` to minimise and its parts before weighting, each (B,): one figure a slice.

    Stage one: `reconstruction` (BCE of the image with itself, or `mse`) + `kl_weight` KL. Stage two: `bce` with the
    label + `dice_weight` soft `dice` + `kl_weight` KL (which has no effect on a frozen encoder). In the loss, KL counts
    as its mean over the latent numbers; as figures, `reconstruction`, `bce`, `kl` and `total` are nats a pixel.
    """
    kl = kl_divergence(posterior)
    penalty = config.kl_weight * kl / posterior.mean[0].numel()
    pixels = batch.images[0].numel()
    if isinstance(model, Segmenter):
        bce = cross_entropy(logits, batch.labels)
        parts = {"bce": bce, "kl": kl / pixels}
        loss = bce * (pixels if config.bce_reduction == "sum" else 1) + penalty
        if config.dice_weight:
            parts["dice"] = soft_dice_loss(logits, batch.labels)
            loss = loss + config.dice_weight * parts["dice"]
        return {"loss": loss, **parts}
    bce = cross_entropy(logits, batch.images)
    parts = {"reconstruction": bce, "kl": kl / pixels, "total": bce + kl / pixels}
    if config.reconstruction_loss == "mse":
        parts["mse"] = squared_error(logits, batch.images)
    reconstruction = parts.get("mse", bce) * (pixels if config.bce_reduction == "sum" else 1)
    return {"loss": reconstruction + penalty, **parts}


def step_loss(losses: Tensor, step_slices: int, n_workers: int, config: TrainingConfig) -> Tensor:
    """What one worker differentiates, so that gradients averaged over workers are those of the whole step.

    Args:
        losses: (B,) of this worker's slices.
        step_slices: slices of all workers in the step.
        n_workers: over which gradients will be averaged.
        config: `bce_reduction` says whether a step's loss is the mean over its slices or their sum.
    """
    return losses.sum() * (n_workers if config.bce_reduction == "sum" else n_workers / step_slices)


def autocast(model: nn.Module, config: TrainingConfig) -> torch.autocast:
    """bfloat16 where the configuration or, with `auto`, the hardware has it."""
    is_bf16 = computed_in(model, config) is torch.bfloat16
    return torch.autocast(device_of(model).type, dtype=torch.bfloat16, enabled=is_bf16)


def computed_in(model: nn.Module, config: TrainingConfig) -> torch.dtype:
    """Number type of the network's products; weights, sums and losses are float32 in any case."""
    return number_type(config.precision, device_of(model))


def device_of(model: nn.Module) -> torch.device:
    """Where the weights are."""
    return next(model.parameters()).device
