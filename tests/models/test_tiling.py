"""A convolution over tiles gives the pixels of the one that it was made from."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vaeseg.models.tiling import TILE, is_tileable, tiled


@pytest.mark.parametrize(("kernel", "bias"), [((1, 1), True), ((3, 3), True), ((5, 3), False)])
def test_tiles_hold_the_same_pixels(kernel: tuple[int, int], bias: bool) -> None:
    """Borders too, for images that are not square."""
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 1, kernel, padding=(kernel[0] // 2, kernel[1] // 2), bias=bias)
    images = torch.randn(2, 3, 5 * TILE, 2 * TILE)
    assert is_tileable(plain, tuple(images.shape))
    with torch.no_grad():
        found = nn.functional.pixel_shuffle(tiled(plain)(images), TILE)
        torch.testing.assert_close(found, plain(images))


@pytest.mark.parametrize(
    "other",
    [
        nn.Conv2d(3, 2, 3, padding=1),
        nn.Conv2d(3, 1, 3, padding=0),
        nn.Conv2d(3, 1, 3, padding="same"),
        nn.Conv2d(3, 1, 4, padding=2),
        nn.Conv2d(3, 1, 3, padding=1, stride=2),
        nn.Conv2d(3, 1, 3, padding=1, dilation=2),
        nn.Conv2d(3, 1, 3, padding=1, padding_mode="reflect"),
    ],
    ids=["two channels", "no padding", "named padding", "even kernel", "stride", "dilation", "reflecting"],
)
def test_other_convolutions_are_left_alone(other: nn.Conv2d) -> None:
    assert not is_tileable(other, (1, 3, 16, 16))


def test_images_of_broken_tiles_are_left_alone() -> None:
    plain = nn.Conv2d(3, 1, 3, padding=1)
    assert not is_tileable(plain, (1, 3, 16, 18))
    assert not is_tileable(plain, (1, 3, 18, 16))
