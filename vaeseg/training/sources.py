"""Where a training's slices come from: memory, or wherever a source outside this package streams them from.

N slices, B batch, S side of the model grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from vaeseg.io.dataset import DataSet
from vaeseg.io.slices import Pixels, SliceSet
from vaeseg.records import IntArray
from vaeseg.training.batches import Batch


class SliceSource(Protocol):
    """Gives the slices of step after step."""

    def steps(self, parts: Iterable[IntArray]) -> Iterator[Batch]:
        """The slices of each part, whole and unchanged, in the order asked for, on the device of the training."""
        ...


class ResidentSource:
    """All slices of a data set in memory: the device's where they fit, else the host's.

    Args:
        slices: all of them, by slice index.
        device: where batches are wanted.
        on_device: keep everything there.
    """

    def __init__(self, slices: SliceSet, device: torch.device, on_device: bool = False) -> None:
        home = device if on_device else torch.device("cpu")
        self._device = device
        self._images = _as_tensor(slices.images).to(home)
        self._labels = None if slices.packed_labels is None else torch.from_numpy(slices.packed_labels).to(home)
        self._full = float(np.iinfo(slices.images.dtype).max)

    def steps(self, parts: Iterable[IntArray]) -> Iterator[Batch]:
        """See `SliceSource.steps`."""
        for part in parts:
            chosen = torch.from_numpy(part).to(self._images.device)
            images = self._images[chosen].to(self._device)
            labels = None if self._labels is None else self._labels[chosen].to(self._device)
            yield whole_batch(images, labels, self._full)


def batch_of(slices: SliceSet, device: torch.device) -> Batch:
    """A slice set as one batch."""
    labels = None if slices.packed_labels is None else torch.from_numpy(slices.packed_labels).to(device)
    return whole_batch(_as_tensor(slices.images).to(device), labels, float(np.iinfo(slices.images.dtype).max))


def whole_batch(images: Tensor, packed_labels: Tensor | None, full: float) -> Batch:
    """Whole slices as they are.

    Args:
        images: (B, S, S) integers; `full` is intensity 1.
        packed_labels: (B, S, ceil(S / 8)) uint8 as `np.packbits` packs rows; None gives labels of zeros.
        full: 255 or 65535.
    """
    intensity = (images.float() / full)[:, None].contiguous(memory_format=torch.channels_last)
    labels = torch.zeros_like(intensity)
    if packed_labels is not None:
        bits = torch.arange(7, -1, -1, device=images.device, dtype=torch.uint8)
        unpacked = (packed_labels[..., None] >> bits) & 1
        labels = unpacked.flatten(-2)[..., : images.shape[-1]].float()[:, None]
    return Batch(images=intensity, labels=labels)


def fits(data: DataSet, free_bytes: int) -> bool:
    """Whether a whole data set may be kept in that much memory, with as much again left for the training."""
    return 2 * data_bytes(data) < free_bytes


def data_bytes(data: DataSet) -> int:
    """Bytes of all images and labels in memory."""
    pixels = data.manifest.n_slices * data.manifest.preprocessing.image_size**2
    return pixels * (1 if data.manifest.bits == 8 else 4) + pixels // 8


def _as_tensor(images: Pixels) -> Tensor:
    """Sixteen bits become thirty-two: torch can hardly compute with unsigned sixteen."""
    return torch.from_numpy(images if images.dtype == np.uint8 else images.astype(np.int32))
