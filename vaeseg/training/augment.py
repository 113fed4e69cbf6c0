"""Random changes to a batch that a tumour does not mind; every draw comes from the generator given.

B batch, J I space.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def augment(
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    kind: Literal["none", "flip", "dihedral"],
    intensity_jitter: float,
) -> tuple[Tensor, Tensor]:
    """Move image and label together, then change the image's intensity.

    Args:
        images: (B, 1, J, I) intensity in [0, 1]; J = I for `dihedral`.
        labels: (B, 1, J, I) of any dtype.
        generator: on the CPU.
        kind: which moves.
        intensity_jitter: greatest offset, and greatest relative gain, of the intensity.

    Returns:
        Images and labels of the same shapes; intensity clipped to [0, 1].
    """
    moves = _moves(len(images), generator, kind)
    images = torch.stack([_moved(image, move) for image, move in zip(images, moves, strict=True)])
    labels = torch.stack([_moved(label, move) for label, move in zip(labels, moves, strict=True)])
    if intensity_jitter:
        images = _jittered(images, generator, intensity_jitter)
    return images, labels


def _moves(count: int, generator: torch.Generator, kind: Literal["none", "flip", "dihedral"]) -> list[int]:
    """Numbers 0 to 7: quarter turns, plus 4 for a flip of left and right."""
    if kind == "none":
        return [0] * count
    drawn = torch.randint(0, 8, (count,), generator=generator)
    return [int(move) & (4 if kind == "flip" else 7) for move in drawn]


def _moved(image: Tensor, move: int) -> Tensor:
    flipped = image.flip(-1) if move & 4 else image
    turned: Tensor = torch.rot90(flipped, move & 3, dims=(-2, -1))
    return turned


def _jittered(images: Tensor, generator: torch.Generator, jitter: float) -> Tensor:
    drawn = (torch.rand((2, len(images), 1, 1, 1), generator=generator) * 2 - 1) * jitter
    gain, offset = drawn[0].to(images.device), drawn[1].to(images.device)
    return (images * (1 + gain) + offset).clamp(0.0, 1.0)
