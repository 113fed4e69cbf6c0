"""Random changes to a batch that a tumour does not mind, on whatever device the batch is.

Nothing is drawn here: every change is computed from uniform numbers given for each slice, so that a slice is changed in
the same way whichever worker has it. B batch, J I space.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

LOWEST_INTENSITY = 1e-4
"""Below it a power is taken of this, as the power of 0 has no useful value for an exponent under 1."""


def moved(images: Tensor, uniform: Tensor, kind: Literal["none", "flip", "dihedral"]) -> Tensor:
    """Flip and turn each image, or its label.

    Args:
        images: (B, 1, J, I) of any dtype; J = I for `dihedral`.
        uniform: (B,) in [0, 1), which of the eight moves; the same for an image and its label.
        kind: `flip` mirrors left and right in half of all cases, `dihedral` takes all eight flips and quarter turns.

    Returns:
        The same shape.
    """
    if kind == "none":
        return images
    move = (uniform * 8).long()
    images = _where(move & 4, images.flip(-1), images)
    if kind == "flip":
        return images
    images = _where(move & 2, images.flip(-2), images)
    return _where(move & 1, images.transpose(-2, -1), images)


def jittered(images: Tensor, uniform: Tensor, jitter: float) -> Tensor:
    """Change gain and offset of each image's intensity.

    Args:
        images: (B, 1, J, I) intensity in [0, 1].
        uniform: (B, 2) in [0, 1): gain and offset.
        jitter: greatest offset, and greatest relative gain.

    Returns:
        The same shape, clipped to [0, 1].
    """
    if not jitter:
        return images
    gain, offset = ((uniform * 2 - 1) * jitter).T[:, :, None, None, None]
    changed: Tensor = images * (1 + gain) + offset
    return changed.clamp(0.0, 1.0)


def gamma_changed(images: Tensor, uniform: Tensor, jitter: float) -> Tensor:
    """Take each image's intensity to a random power.

    Args:
        images: (B, 1, J, I) intensity in [0, 1].
        uniform: (B,) in [0, 1).
        jitter: the exponent lies between exp(-jitter) and exp(jitter).
    """
    if not jitter:
        return images
    exponent = torch.exp((uniform * 2 - 1) * jitter)[:, None, None, None]
    return images.clamp(LOWEST_INTENSITY, 1.0) ** exponent


def noisy(images: Tensor, uniform: Tensor, normal: Tensor, largest: float) -> Tensor:
    """Add white noise whose standard deviation differs from image to image.

    Args:
        images: (B, 1, J, I) intensity in [0, 1].
        uniform: (B,) in [0, 1), share of the largest standard deviation.
        normal: (B, 1, J, I) standard normal.
        largest: standard deviation.
    """
    return (images + normal * (uniform * largest)[:, None, None, None]).clamp(0.0, 1.0)


def warp_grids(uniform: Tensor, size: int, share: float, scale: float, shift: float) -> Tensor:
    """Where each pixel of a warped square image comes from: turned by any angle, scaled and shifted.

    Args:
        uniform: (B, 5) in [0, 1): whether, scale, angle, two shifts.
        size: side of the images, pixels.
        share: of the images that are warped; the others stay as they are.
        scale: from 1 / scale to scale, evenly in its logarithm.
        shift: largest, as a share of the side.

    Returns:
        (B, size, size, 2) for `warped`.
    """
    chosen = uniform[:, 0] < share
    drawn = torch.where(chosen[:, None], uniform[:, 1:] * 2 - 1, torch.zeros_like(uniform[:, 1:]))
    factor = torch.exp(drawn[:, 0] * math.log(scale))
    angle = drawn[:, 1] * math.pi
    cosine, sine = torch.cos(angle) / factor, torch.sin(angle) / factor
    across, down = (drawn[:, 2:] * 2 * shift).T
    rows = [torch.stack([cosine, -sine, across], dim=1), torch.stack([sine, cosine, down], dim=1)]
    return functional.affine_grid(torch.stack(rows, dim=1), [len(uniform), 1, size, size], align_corners=False)


def warped(images: Tensor, grids: Tensor) -> Tensor:
    """Images (B, 1, S, S) float sampled at `warp_grids`; what comes in from outside is mirrored."""
    return functional.grid_sample(images, grids, padding_mode="reflection", align_corners=False)


def crop_corners(labels: Tensor, uniform: Tensor, size: int) -> Tensor:
    """Where to cut a square from each slice: around a random tumour pixel where there is one, anywhere else.

    Args:
        labels: (B, 1, J, I) of 0 and 1.
        uniform: (B, 3) in [0, 1): which tumour pixel, and where in the square it falls, down and right.
        size: side of the square, at most J and I.

    Returns:
        (B, 2) int64, top and left.
    """
    height, width = labels.shape[-2:]
    largest = torch.tensor([height - size, width - size], device=labels.device)
    anywhere = (uniform[:, 1:] * (largest + 1)).long()
    counted = labels.flatten(1).long().cumsum(1)
    n_tumour = counted[:, -1:]
    chosen = (uniform[:, :1] * n_tumour).long() + 1
    pixel = torch.searchsorted(counted, chosen).clamp(max=height * width - 1)
    around = torch.cat([pixel // width, pixel % width], dim=1) - (uniform[:, 1:] * size).long()
    around = torch.minimum(around.clamp(min=0), largest)
    return torch.where(n_tumour > 0, around, anywhere)


def cropped(images: Tensor, corners: Tensor, size: int) -> Tensor:
    """A square of each image: (B, 1, J, I) to (B, 1, size, size), for (B, 2) tops and lefts."""
    steps = torch.arange(size, device=images.device)
    rows = (corners[:, :1] + steps)[:, None, :, None]
    columns = (corners[:, 1:] + steps)[:, None, None, :]
    batch = torch.arange(len(images), device=images.device)[:, None, None, None]
    return images[batch, 0, rows, columns]


def _where(bit: Tensor, changed: Tensor, unchanged: Tensor) -> Tensor:
    return torch.where((bit > 0)[:, None, None, None], changed, unchanged)
