"""What a frozen encoder says of each slice, found once: every later epoch trains the decoder without the encoder.

N slices, B batch, J I space, Z latent.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vaeseg.config import TrainingConfig
from vaeseg.models.vae import Posterior, VariationalAutoencoder, latent_shape
from vaeseg.records import IntArray
from vaeseg.training.batches import changes_slices
from vaeseg.training.objective import autocast, device_of

MOST_BYTES = 2**30
"""Kept for a training at most; the paper's latent takes 4 KiB a slice, 58 MB for its 14,126 slices."""

PASS = 8
"""Slices that are encoded at once, always as many: kernels are chosen by shape, so that a posterior would otherwise
depend on which slices it was found with, and a resumed training would differ."""


class Posteriors:
    """Means and log variances by slice.

    Args:
        model: its encoder and heads are frozen, in evaluation mode whenever slices are encoded.
        n_slices: N, of the whole data set.
        config: in which precision the network runs.
    """

    def __init__(self, model: VariationalAutoencoder, n_slices: int, config: TrainingConfig) -> None:
        self._model, self._config = model, config
        shape = latent_shape(model.architecture, n_slices, model.architecture.image_size)
        self._mean, self._logvar = (torch.empty(shape, device=device_of(model)) for _ in range(2))
        self._known = np.zeros(n_slices, dtype=np.bool_)

    def of(self, chosen: IntArray, images: Tensor) -> Posterior:
        """Posterior of whole slices that nothing has changed.

        Args:
            chosen: (B,) slice indices.
            images: (B, 1, J, I) of these slices, intensity in [0, 1], on the model's device.
        """
        new = np.flatnonzero(~self._known[chosen])
        for first in range(0, len(new), PASS):
            places = new[first : first + PASS]
            self._encode(self._on_device(chosen[places]), images[self._on_device(places)])
        self._known[chosen] = True
        own = self._on_device(chosen)
        return Posterior(self._mean[own], self._logvar[own])

    def _encode(self, slices: Tensor, images: Tensor) -> None:
        filled = images.new_zeros((PASS, *images.shape[1:])).contiguous(memory_format=torch.channels_last)
        filled[: len(images)] = images
        with torch.no_grad(), autocast(self._model, self._config):
            posterior = self._model.encode(filled)
        self._mean[slices], self._logvar[slices] = (part[: len(images)].float() for part in posterior)

    def _on_device(self, indices: IntArray) -> Tensor:
        return torch.from_numpy(indices).to(self._mean.device)


def kept(model: VariationalAutoencoder, n_slices: int, config: TrainingConfig) -> Posteriors | None:
    """Those of a frozen encoder that sees the same images in every epoch, and few enough of them; else None."""
    latent = latent_shape(model.architecture, n_slices, model.architecture.image_size)
    if changes_slices(config) or 2 * 4 * int(np.prod(latent)) > MOST_BYTES:
        return None
    return Posteriors(model, n_slices, config)
