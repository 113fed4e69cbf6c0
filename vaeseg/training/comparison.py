"""The losses of the paper's figure 6 beside each other: three autoencoders that differ in nothing else.

B batch, N slices, S side of the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from vaeseg.io.dataset import DataSet, open_data_set
from vaeseg.models.checkpoint import load_checkpoint
from vaeseg.models.losses import cross_entropy, kl_divergence, squared_error
from vaeseg.models.vae import VariationalAutoencoder, latent_shape
from vaeseg.records import FloatArray, IntArray
from vaeseg.training.batches import Batch
from vaeseg.training.continuation import keyed, train_once
from vaeseg.training.drawing import canvas, draw_line, examples_of, grey, save_figure, show
from vaeseg.training.history import HISTORY_FILE, EpochRecord, read_history
from vaeseg.training.run import TrainedModel, TrainingRequest, chosen_split
from vaeseg.training.sources import batch_of

MEASURED_SLICES = 16
"""Slices of the dev part in memory at a time."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """One of the three."""

    name: str
    title: str
    reconstruction: Literal["bce", "mse"]
    kl_weight: float
    colour: str


LOSSES = (
    Loss(name="mse", title="MSE + 0.1 KL", reconstruction="mse", kl_weight=0.1, colour="#777777"),
    Loss(name="bce-full-kl", title="BCE + KL", reconstruction="bce", kl_weight=1.0, colour="#1f5fa8"),
    Loss(name="bce-tenth-kl", title="BCE + 0.1 KL", reconstruction="bce", kl_weight=0.1, colour="#d9730d"),
)
"""Weights count for the mean over the latent numbers, against the mean over pixels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ComparedLoss:
    """What came of one loss, on the dev part, decoded from the posterior's mean."""

    loss: Loss
    model: Path
    digest: str
    mse: float
    """Squared error, mean over pixels."""
    bce: float
    """Nats a pixel."""
    kl: float
    """Nats an image."""
    records: list[EpochRecord]
    reconstructions: FloatArray
    """(N, S, S) of the examples."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LossComparison:
    """All three on the same slices."""

    images: FloatArray
    """(N, S, S) examples from the dev part, intensity in [0, 1]."""
    bce_floor: float
    """Nats a pixel of an image with itself: no reconstruction has less."""
    n_dev_slices: int
    latent_numbers: int
    """Length of the latent of one image."""
    epochs: int
    losses: tuple[ComparedLoss, ...]

    def as_json(self) -> dict[str, Any]:
        """What `compare-losses --json` prints."""
        return {
            "epochs": self.epochs,
            "image_size": self.images.shape[-1],
            "n_dev_slices": self.n_dev_slices,
            "latent_numbers": self.latent_numbers,
            "bce_floor_nats_per_pixel": self.bce_floor,
            "losses": [
                {
                    "loss": one.loss.name,
                    "title": one.loss.title,
                    "model": str(one.model),
                    "digest": one.digest,
                    "reconstruction_mse": one.mse,
                    "bce_nats_per_pixel": one.bce,
                    "kl_nats_per_image": one.kl,
                }
                for one in self.losses
            ],
        }


def compare_losses(request: TrainingRequest, train: Callable[[TrainingRequest], TrainedModel]) -> LossComparison:
    """Train an autoencoder with each loss, unless that is done, and measure all of them on the same dev slices.

    Args:
        request: stage one; the directory of its output takes the models.
        train: trains one stage, and keeps its history.

    Raises:
        UsageError, TrainingError, StoreError: as `training.run.run_training`.
    """
    data = open_data_set(request.data)
    dev = chosen_split(data, request).dev
    examples = examples_of(dev)
    images = batch_of(data.read(examples), torch.device("cpu")).images
    losses = tuple(_compared(_with_loss(request, data, loss), loss, data, dev, images, train) for loss in LOSSES)
    return LossComparison(
        images=images.squeeze(1).numpy(),
        bce_floor=_bce_floor(data, dev),
        n_dev_slices=len(dev),
        latent_numbers=int(np.prod(latent_shape(request.architecture, 1, images.shape[-1]))),
        epochs=request.training.epochs,
        losses=losses,
    )


def draw_comparison(comparison: LossComparison, path: Path) -> None:
    """Curves and a table above, the same slices as each autoencoder reconstructs them below (the paper's figure 6).

    Raises:
        StoreError: it cannot be written.
    """
    rows = [("original", comparison.images)]
    rows += [(one.loss.title, one.reconstructions) for one in comparison.losses]
    columns = len(comparison.images)
    with canvas(1.7 * columns, 2.6 + 1.7 * len(rows)) as figure:
        parts: Any = figure.subfigures(2, 1, height_ratios=[2.6, 1.7 * len(rows)])
        above, below = parts
        _draw_figures(above, comparison)
        panels = below.subplots(len(rows), columns, squeeze=False)
        for row, (name, images) in enumerate(rows):
            for column, picture in enumerate(grey(images)):
                show(panels[row, column], picture, name="" if column else name)
        save_figure(figure, path)


def _with_loss(request: TrainingRequest, data: DataSet, loss: Loss) -> TrainingRequest:
    training = replace(request.training, reconstruction_loss=loss.reconstruction, kl_weight=loss.kl_weight)
    return keyed(replace(request, training=training), data, loss.name)


def _compared(
    request: TrainingRequest,
    loss: Loss,
    data: DataSet,
    dev: IntArray,
    examples: torch.Tensor,
    train: Callable[[TrainingRequest], TrainedModel],
) -> ComparedLoss:
    path, _ = train_once(request, data, train)
    checkpoint = load_checkpoint(path)
    model = checkpoint.network()
    with torch.inference_mode():
        reconstructions = torch.sigmoid(model(examples)[0]).squeeze(1).numpy()
    mse, bce, kl = _measured(model.to(request.device), data, dev)
    return ComparedLoss(
        loss=loss,
        model=path,
        digest=checkpoint.digest,
        mse=mse,
        bce=bce,
        kl=kl,
        records=read_history(request.directory / HISTORY_FILE),
        reconstructions=reconstructions,
    )


def _measured(model: VariationalAutoencoder, data: DataSet, dev: IntArray) -> tuple[float, float, float]:
    """Squared error and BCE a pixel, KL an image; mean over slices."""
    sums = np.zeros(3)
    device = next(model.parameters()).device
    with torch.inference_mode():
        for batch in _batches(data, dev, device):
            logits, posterior = model(batch.images)
            figures = squared_error(logits, batch.images), cross_entropy(logits, batch.images), kl_divergence(posterior)
            sums += [figure.double().sum().item() for figure in figures]
    mse, bce, kl = sums / len(dev)
    return float(mse), float(bce), float(kl)


def _bce_floor(data: DataSet, dev: IntArray) -> float:
    """Mean entropy of the pixels, each taken as the probability of a coin."""
    total = 0.0
    for batch in _batches(data, dev, torch.device("cpu")):
        entropy = torch.special.entr(batch.images) + torch.special.entr(1 - batch.images)
        total += entropy.double().mean((1, 2, 3)).sum().item()
    return total / len(dev)


def _batches(data: DataSet, dev: IntArray, device: torch.device) -> Iterator[Batch]:
    for first in range(0, len(dev), MEASURED_SLICES):
        yield batch_of(data.read(dev[first : first + MEASURED_SLICES]), device)


def _draw_figures(figure: Any, comparison: LossComparison) -> None:
    reconstruction, kl, table = figure.subplots(1, 3)
    pixels = comparison.images[0].size
    for one in comparison.losses:
        epochs = [record.epoch for record in one.records]
        curve = [record.dev.get("reconstruction") for record in one.records]
        draw_line(reconstruction, epochs, curve, one.loss.colour, one.loss.title)
        nats = [record.dev.get("kl") for record in one.records]
        draw_line(kl, epochs, [None if value is None else value * pixels for value in nats], one.loss.colour, "")
    reconstruction.axhline(comparison.bce_floor, color="black", linewidth=0.8, linestyle=":", label="image with itself")
    reconstruction.set_title("BCE on dev, nats a pixel")
    reconstruction.legend(frameon=False)
    kl.set_title("KL on dev, nats an image")
    _draw_table(table, comparison)


def _draw_table(axes: Any, comparison: LossComparison) -> None:
    cells = [[f"{one.mse:.5f}", f"{one.bce:.4f}", f"{one.kl:.1f}"] for one in comparison.losses]
    drawn = axes.table(
        cells,
        rowLabels=[one.loss.title for one in comparison.losses],
        colLabels=["MSE", "BCE\nnats/pixel", "KL\nnats/image"],
        bbox=[0.3, 0.25, 0.7, 0.6],
    )
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(8)
    axes.set_title(f"{comparison.n_dev_slices} dev slices after {comparison.epochs} epochs")
    axes.set_axis_off()
