"""The end of a decoder over tiles gives the pixels of the convolutions that it was made from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from vaeseg.models.tiling import TILE, clear_outside, from_tiles, is_tileable, tiled

SHAPE = (2, 6, 6, 10)


@pytest.mark.parametrize("bias", [True, False])
def test_tiles_hold_the_same_pixels(bias: bool) -> None:
    """Borders too, for images that are not square; and nothing random is drawn for it."""
    torch.manual_seed(0)
    doubling, last = _end(bias=bias)
    features = torch.randn(SHAPE)
    state = torch.get_rng_state()
    assert is_tileable(doubling, last, SHAPE)
    with torch.no_grad():
        expected = last(nn.functional.leaky_relu(doubling(features)))
        ends = tiled(doubling, last)
        cells = clear_outside(nn.functional.leaky_relu(ends.to_cells(features)))
        found = from_tiles(ends.to_tiles(cells))
    assert torch.equal(torch.get_rng_state(), state)
    assert found.shape == (2, 1, 12, 20)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_tiles_become_pixels(dtype: torch.dtype, layout: torch.memory_format) -> None:
    tiles = torch.randn(2, TILE**2, 3, 5).to(dtype).contiguous(memory_format=layout)
    assert torch.equal(from_tiles(tiles), nn.functional.pixel_shuffle(tiles, TILE))


@pytest.mark.parametrize(
    ("of_doubling", "of_last"),
    [
        ({"kernel_size": 2, "padding": 0}, {}),
        ({"padding": 0}, {}),
        ({"groups": 3}, {}),
        ({"stride": 1}, {}),
        ({"output_padding": 1}, {}),
        ({"dilation": 2}, {}),
        ({}, {"out_channels": 2}),
        ({}, {"padding": 0}),
        ({}, {"kernel_size": 5}),
        ({}, {"stride": 2}),
        ({}, {"dilation": 2}),
        ({}, {"padding_mode": "reflect"}),
    ],
)
def test_other_convolutions_are_left_alone(of_doubling: dict[str, Any], of_last: dict[str, Any]) -> None:
    assert not is_tileable(*_end(of_doubling, of_last), SHAPE)


@pytest.mark.parametrize("shape", [(2, 6, 7, 10), (2, 6, 6, 9)])
def test_images_of_broken_tiles_are_left_alone(shape: tuple[int, ...]) -> None:
    assert not is_tileable(*_end(), shape)


def _end(
    of_doubling: dict[str, Any] | None = None, of_last: dict[str, Any] | None = None, *, bias: bool = True
) -> tuple[nn.ConvTranspose2d, nn.Conv2d]:
    doubling: dict[str, Any] = {"kernel_size": 4, "stride": 2, "padding": 1, "bias": bias}
    last: dict[str, Any] = {"out_channels": 1, "kernel_size": 3, "padding": 1, "bias": bias}
    return nn.ConvTranspose2d(6, 3, **doubling | (of_doubling or {})), nn.Conv2d(3, **last | (of_last or {}))
