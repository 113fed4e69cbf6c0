"""One training loop for both stages, in one process, over slices in memory.

    order = epoch_order(...)                  which slices, from seed and epoch
    batch = training_batch(...)               cropped and augmented, from seed, epoch and step
    losses = stage_losses(model, batch, ...)  stage one: BCE + KL; stage two: BCE + Dice + KL
    backward, step                            the learning rate is a function of the step
    save_state(...)                           after every epoch

B batch, J I space, Z latent.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vaeseg.config import TrainingConfig
from vaeseg.errors import TrainingError
from vaeseg.models.losses import cross_entropy, kl_divergence, soft_dice_loss
from vaeseg.models.segmenter import Segmenter
from vaeseg.models.vae import VariationalAutoencoder, latent_shape
from vaeseg.records import IntArray
from vaeseg.training.batches import Batch, epoch_order, step_noise, training_batch
from vaeseg.training.evaluate import autocast, device_of, evaluate
from vaeseg.training.slices import SliceSet
from vaeseg.training.split import Split
from vaeseg.training.state import restore_state, save_state


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """What one epoch gave."""

    epoch: int
    """From 1."""
    epochs: int
    losses: Mapping[str, float]
    """Mean over the epoch's steps: `loss`, and its parts before weighting."""
    dev: Mapping[str, float | None]
    """Figures on the dev part, see `training.evaluate`."""
    learning_rate: float
    """Of the epoch's last step."""
    slices_per_second: float
    """Trained on, evaluation not counted."""


@dataclass(frozen=True, kw_only=True)
class Observer:
    """Who is told how training goes."""

    on_step: Callable[[int, Mapping[str, float]], None] = lambda n_slices, losses: None
    """Slices in the step, and its losses."""
    on_epoch: Callable[[EpochReport], None] = lambda report: None
    """After the epoch's state is on disk."""


def train(
    model: VariationalAutoencoder,
    slices: SliceSet,
    split: Split,
    config: TrainingConfig,
    *,
    state_path: Path,
    fingerprint: Mapping[str, str],
    resume: bool = False,
    threshold: float = 0.5,
    observer: Observer | None = None,
) -> None:
    """Train a `VariationalAutoencoder` (stage one) or a `Segmenter` (stage two) in place.

    Killed at any point and resumed, it ends with bit for bit the same weights on a CPU with as many threads.

    Args:
        model: on its device already.
        slices: all slices of the data set; with labels for a segmenter.
        split: who is trained on, and who is measured on after each epoch.
        config: everything that decides the weights.
        state_path: where the state for resuming is kept.
        fingerprint: what must be equal for a resume, by name.
        resume: go on from the state instead of starting over.
        threshold: probability from which a pixel is tumour, for the dev figures.
        observer: told of steps and epochs.

    Raises:
        TrainingError: the loss is not finite, or there is nothing to resume.
        StoreError: the state cannot be written.
    """
    observer = observer or Observer()
    if isinstance(model, Segmenter) and config.freeze_encoder:
        model.freeze_encoder()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's own overloads
    optimizer = torch.optim.AdamW(
        [weight for weight in model.parameters() if weight.requires_grad],
        weight_decay=config.weight_decay,
        fused=True,
    )
    epochs_done = restore_state(state_path, model, optimizer, fingerprint) if resume else 0
    if not resume:
        save_state(state_path, model, optimizer, 0, fingerprint)
    for epoch in range(epochs_done, config.epochs):
        started = time.perf_counter()
        order = epoch_order(slices, split.train, config, epoch)
        losses = _train_epoch(model, optimizer, slices, order, config, epoch, observer)
        seconds = time.perf_counter() - started
        dev = evaluate(model, slices, split.dev, threshold, config.bf16)
        save_state(state_path, model, optimizer, epoch + 1, fingerprint)
        observer.on_epoch(
            EpochReport(
                epoch=epoch + 1,
                epochs=config.epochs,
                losses=losses,
                dev=dev,
                learning_rate=float(optimizer.param_groups[0]["lr"]),
                slices_per_second=len(order) / seconds,
            )
        )


def learning_rate(config: TrainingConfig, step: int, steps_per_epoch: int) -> float:
    """Learning rate of a step, counted from 0 over the whole training.

    `step`: times `step_factor` every `step_epochs` epochs. `cosine`: up in a straight line over `warmup_share` of all
    steps, then half a cosine down to zero at the end (Loshchilov and Hutter 2017).
    """
    if config.schedule == "step":
        return config.learning_rate * config.step_factor ** (step // steps_per_epoch // config.step_epochs)
    total = steps_per_epoch * config.epochs
    warmup = round(config.warmup_share * total)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def stage_losses(
    model: VariationalAutoencoder, batch: Batch, noise: Tensor | None, config: TrainingConfig
) -> dict[str, Tensor]:
    """`loss` to minimise, and its parts before weighting; scalars.

    Stage one: BCE of the image with itself + `kl_weight` KL. Stage two: BCE with the label + `dice_weight` soft Dice +
    `kl_weight` KL (the last has no effect on a frozen encoder).
    """
    with autocast(model, config.bf16):
        logits, posterior = model(batch.images, noise)
    segmenting = isinstance(model, Segmenter)
    losses = {
        "bce": cross_entropy(logits, batch.labels if segmenting else batch.images, config.bce_reduction),
        "kl": kl_divergence(posterior),
    }
    loss = losses["bce"] + config.kl_weight * losses["kl"]
    if segmenting and config.dice_weight:
        losses["dice"] = soft_dice_loss(logits, batch.labels)
        loss = loss + config.dice_weight * losses["dice"]
    return {"loss": loss, **losses}


def _train_epoch(
    model: VariationalAutoencoder,
    optimizer: torch.optim.Optimizer,
    slices: SliceSet,
    order: IntArray,
    config: TrainingConfig,
    epoch: int,
    observer: Observer,
) -> dict[str, float]:
    _training_mode(model, config)
    steps = math.ceil(len(order) / config.batch_size)
    sums: dict[str, float] = {}
    for step in range(steps):
        indices = order[step * config.batch_size : (step + 1) * config.batch_size]
        optimizer.param_groups[0]["lr"] = learning_rate(config, epoch * steps + step, steps)
        batch = _on_device(training_batch(slices, indices, config, epoch, step), device_of(model))
        losses = stage_losses(model, batch, _noise(model, batch, config, epoch, step), config)
        figures = {name: loss.item() for name, loss in losses.items()}
        if not np.isfinite(figures["loss"]):
            raise TrainingError(
                f"the loss became {figures['loss']} in epoch {epoch + 1}, step {step + 1}; lower learning_rate "
                f"(now {config.learning_rate:g}). The state of epoch {epoch} is kept"
            )
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        for name, figure in figures.items():
            sums[name] = sums.get(name, 0.0) + figure
        observer.on_step(len(indices), figures)
    return {name: total / steps for name, total in sums.items()}


def _training_mode(model: VariationalAutoencoder, config: TrainingConfig) -> None:
    model.train()
    if isinstance(model, Segmenter) and config.freeze_encoder:
        model.encoder.eval()


def _on_device(batch: Batch, device: torch.device) -> Batch:
    return Batch(images=batch.images.to(device), labels=batch.labels.to(device))


def _noise(model: VariationalAutoencoder, batch: Batch, config: TrainingConfig, epoch: int, step: int) -> Tensor | None:
    if config.latent == "mean":
        return None
    shape = latent_shape(model.architecture, len(batch.images), batch.images.shape[-1])
    return step_noise(shape, config, epoch, step).to(device_of(model))
