"""The end of a decoder over tiles of pixels: the same function for a fraction of the products.

A transposed convolution doubles the size, and a 3 x 3 convolution to a single channel follows. Kernels compute as many
channels at a time as a register holds, 8 or 16 on a CPU: for a single one, all others are thrown away at full
resolution. With neighbouring pixels as channels both are plain convolutions. The first makes what is needed and no
more, the second, with zeros among its weights, four products for each that counts:

    cell (p, q)   rows 2 p - 1 and 2 p, columns 2 q - 1 and 2 q: four pixels that are made from the same 2 x 2 inputs
    tile (s, t)   4 x 4 pixels from row 4 s and column 4 t on, which are made from the 3 x 3 cells from (2 s, 2 t) on

Cells at the border have pixels outside the image, which are zeros to the second convolution.

B batch, C channels, J I space.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

TILE = 4
CELL = 2
"""Side, in pixels."""
_ROW = {torch.bfloat16: torch.int64, torch.float32: torch.complex128}
"""A type as large as TILE numbers: copied as one it takes a tenth of the time of `nn.PixelShuffle`."""


class Tiled(NamedTuple):
    """Two convolutions; what lies between them is cells."""

    to_cells: nn.Conv2d
    """(B, C', J, I) to (B, C * CELL * CELL, J + 1, I + 1)."""
    to_tiles: nn.Conv2d
    """That, after activation and `clear_outside`, to (B, TILE * TILE, J / CELL, I / CELL), for `from_tiles`."""


def is_tileable(doubling: nn.ConvTranspose2d, last: nn.Conv2d, shape: tuple[int, ...]) -> bool:
    """Whether two convolutions are what `tiled` can write over tiles, for an input of (B, C', J, I)."""
    return (
        (doubling.kernel_size, doubling.stride, doubling.padding) == ((4, 4), (2, 2), (1, 1))
        and (doubling.output_padding, doubling.dilation, doubling.groups) == ((0, 0), (1, 1), 1)
        and (last.kernel_size, last.stride, last.padding) == ((3, 3), (1, 1), (1, 1))
        and (last.dilation, last.padding_mode, last.out_channels) == ((1, 1), "zeros", 1)
        and shape[2] % CELL == shape[3] % CELL == 0
    )


def tiled(doubling: nn.ConvTranspose2d, last: nn.Conv2d) -> Tiled:
    """Both over tiles.

    Args:
        doubling: and
        last: as `is_tileable` has them, one channel-wise function between them.
    """
    inputs, channels = doubling.in_channels, doubling.out_channels * CELL**2
    with torch.device("meta"):  # else they would draw weights, and move the random state of the process
        to_cells = nn.Conv2d(inputs, channels, 2, padding=1, bias=doubling.bias is not None)
        to_tiles = nn.Conv2d(channels, TILE**2, 3, stride=2, bias=last.bias is not None)
    to_cells, to_tiles = (made.to_empty(device=last.weight.device) for made in (to_cells, to_tiles))
    with torch.no_grad():
        # A pixel's place in its cell decides which of the 4 x 4 weights it takes, from the last input to the first.
        to_cells.weight.copy_(functional.pixel_unshuffle(doubling.weight, CELL).flip(2, 3).transpose(0, 1))
        to_tiles.weight.copy_(functional.pixel_unshuffle(_over_tile(last.weight), CELL))
        if to_cells.bias is not None and doubling.bias is not None:
            to_cells.bias.copy_(doubling.bias.repeat_interleave(CELL**2))
        if to_tiles.bias is not None and last.bias is not None:
            to_tiles.bias.copy_(last.bias.expand(TILE**2))
    return Tiled(to_cells, to_tiles)


def clear_outside(cells: Tensor) -> Tensor:
    """Cells with zeros for the pixels outside the image, in place."""
    pixels = cells.view(len(cells), cells.shape[1] // CELL**2, CELL, CELL, *cells.shape[2:])
    pixels[:, :, 0, :, 0, :] = 0
    pixels[:, :, 1, :, -1, :] = 0
    pixels[:, :, :, 0, :, 0] = 0
    pixels[:, :, :, 1, :, -1] = 0
    return cells


def from_tiles(tiles: Tensor) -> Tensor:
    """(B, TILE * TILE, J, I) of bfloat16 or float32 to (B, 1, TILE * J, TILE * I)."""
    batch, _, height, width = tiles.shape
    rows = tiles.permute(0, 2, 3, 1).contiguous().view(_ROW[tiles.dtype])
    return rows.transpose(2, 3).contiguous().view(tiles.dtype).view(batch, 1, TILE * height, TILE * width)


def _over_tile(weight: Tensor) -> Tensor:
    """(1, C, 3, 3) to (TILE * TILE, C, 6, 6): for a tile's pixels the weights of all that it needs."""
    whole = weight.new_zeros(TILE**2, weight.shape[1], TILE + 2, TILE + 2)
    for channel in range(TILE**2):
        row, column = divmod(channel, TILE)
        whole[channel, :, row : row + 3, column : column + 3] = weight[0]
    return whole
