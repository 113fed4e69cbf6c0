"""A training as a notebook has it: what `bench_training` compares ours with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from vaeseg.config import TrainingConfig
from vaeseg.io.slices import SliceSet
from vaeseg.models.segmenter import Segmenter
from vaeseg.models.vae import Posterior, VariationalAutoencoder, latent_shape
from vaeseg.training.augment import gamma_changed, jittered, moved, noisy, warp_grids, warped


class NotebookSlices(Dataset[tuple[Tensor, Tensor]]):
    """uint8 slices in memory, one at a time as float32, changed at random as the configuration says."""

    def __init__(self, slices: SliceSet, config: TrainingConfig, length: int) -> None:
        self.images, self.labels = slices.images, slices.labels(np.arange(len(slices))).astype(np.uint8)
        self.config = config
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        chosen = place % len(self.images)
        image = torch.from_numpy(self.images[chosen]).float().div(255)[None]
        label = torch.from_numpy(self.labels[chosen]).float()[None]
        return self._changed(image, label) if self.config.augmentation != "none" else (image, label)

    def _changed(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        config, uniform = self.config, torch.rand(1, 11)
        image, label = (moved(part[None], uniform[:, 0], config.augmentation) for part in (image, label))
        if uniform[0, 1] < config.warp_share:
            grids = warp_grids(uniform[:, 1:6], image.shape[-1], 1.0, config.warp_scale, config.warp_shift)
            image, label = warped(image, grids), (warped(label, grids) > 0.5).float()
        image = jittered(
            gamma_changed(image, uniform[:, 6], config.gamma_jitter), uniform[:, 7:9], config.intensity_jitter
        )
        return noisy(image, uniform[:, 9], torch.randn_like(image), config.noise)[0], label[0]


def notebook_training(
    model: VariationalAutoencoder,
    loader: DataLoader[tuple[Tensor, Tensor]],
    config: TrainingConfig,
) -> Iterator[float]:
    """One epoch as a notebook writes it; the loss of each step, as it is printed."""
    model.train()
    if isinstance(model, Segmenter) and config.freeze_encoder:
        model.freeze_encoder()
        model.encoder.eval()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay)
    mean = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay)) if config.ema_decay else None
    device = trained[0].device
    for images, labels in loader:
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        shape = latent_shape(model.architecture, len(images), images.shape[-1])
        logits, posterior = model(images, torch.randn(shape, device=device) if config.latent == "sample" else None)
        optimizer.zero_grad()
        loss = notebook_loss(model, images, labels, logits, posterior, config)
        loss.backward()
        optimizer.step()
        if mean is not None:
            mean.update_parameters(model)
        yield loss.item()


def notebook_loss(
    model: VariationalAutoencoder,
    images: Tensor,
    labels: Tensor,
    logits: Tensor,
    posterior: Posterior,
    config: TrainingConfig,
) -> Tensor:
    """Binary cross-entropy, soft Dice and KL divergence of a batch."""
    mean, logvar = posterior
    target = labels if isinstance(model, Segmenter) else images
    loss = functional.binary_cross_entropy_with_logits(logits, target, reduction=config.bce_reduction)
    if config.kl_weight:
        loss = loss + config.kl_weight * (-0.5 * (1 + logvar - mean**2 - logvar.exp()).mean())
    if config.dice_weight:
        probability = torch.sigmoid(logits)
        overlap, total = ((part).sum((1, 2, 3)) for part in (probability * labels, probability + labels))
        loss = loss + config.dice_weight * (1 - (2 * overlap + 1) / (total + 1)).mean()
    return loss
