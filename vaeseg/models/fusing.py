"""Convolutions that do what follows them in the same kernel, by oneDNN, on a CPU.

Without it each activation is a pass over memory of its own. The operators are those that torch.compile emits on a CPU.
They need no compiler and no warm-up, and torch does not document them: `inference.engine` compares what comes out.

B batch, C channels, J I space.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vaeseg.models.blocks import ResidualBlock, TransposeBlock
from vaeseg.models.segmenter import Segmenter
from vaeseg.models.tiling import Tiled, clear_outside, from_tiles, is_tileable, tiled

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
Shapes = dict[nn.Module, tuple[int, ...]]
"""(B, C, J, I) of the input of each convolution."""


def fused(network: Segmenter, shapes: Shapes, dtype: torch.dtype) -> Segmenter:
    """A copy for inference on a CPU, from image to `logits`, with its weights laid out for kernels that fuse.

    Args:
        network: on the CPU, its normalisations folded.
        shapes: from `watched`, with images of the size that it will see: layouts are chosen for it.
        dtype: that it computes in; images are then to have it too.

    Raises:
        RuntimeError: this processor has no kernels for `dtype`.
        AttributeError: this torch has other operators.
    """
    copy = deepcopy(network)
    of_copy = {
        there: shapes[here] for here, there in zip(network.modules(), copy.modules(), strict=True) if here in shapes
    }
    for part in ("encoder", "mean", "decoder"):
        setattr(copy, part, _fused(getattr(copy, part), of_copy, dtype))
    return copy


def watched(network: Segmenter, images: Tensor) -> tuple[Tensor, Shapes]:
    """Logits (B, 1, J, I) of images of the same shape, and the shapes that its convolutions were given."""
    shapes: Shapes = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        shapes[module] = tuple(inputs[0].shape)

    hooks = [m.register_forward_pre_hook(note) for m in network.modules() if isinstance(m, _CONVOLUTIONS)]
    logits = network.logits(images)
    for hook in hooks:
        hook.remove()
    return logits, shapes


class FusedConvolution(nn.Module):
    """A convolution, transposed or not, and the LeakyReLU after it where there is one.

    Args:
        convolution: whose weights are taken over.
        activation: None for none.
        shape: (B, C, J, I) of its input.
        dtype: that it computes in.
    """

    def __init__(
        self,
        convolution: nn.Conv2d | nn.ConvTranspose2d,
        activation: nn.LeakyReLU | None,
        shape: tuple[int, ...],
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self._bias = None if convolution.bias is None else convolution.bias.detach().to(dtype)
        padding: list[Any] = [convolution.padding]
        if isinstance(convolution, nn.ConvTranspose2d):
            padding.append(convolution.output_padding)
        self._layout = (*padding, convolution.stride, convolution.dilation, convolution.groups)
        operators: Any = torch.ops.mkldnn
        transposes = isinstance(convolution, nn.ConvTranspose2d)
        reorder = "_reorder_convolution_transpose_weight" if transposes else "_reorder_convolution_weight"
        self._weight = getattr(operators, reorder)(convolution.weight.detach().to(dtype), *self._layout, shape)
        self._compute = getattr(
            operators, "_convolution_transpose_pointwise" if transposes else "_convolution_pointwise"
        )
        self._after = ("none", [], "") if activation is None else ("leaky_relu", [activation.negative_slope], "")

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, J, I) to the convolution's shape."""
        found: Tensor = self._compute(features, self._weight, self._bias, *self._layout, *self._after)
        return found

    def add_to(self, total: Tensor, features: Tensor) -> Tensor:
        """The convolution's result added to `total`, of its shape, in place; without activation, and not for a
        transposed one."""
        add: Any = torch.ops.mkldnn._convolution_pointwise_.binary
        found: Tensor = add(total, features, self._weight, self._bias, *self._layout, "add", 1.0, None, [], None)
        return found


class FusedResidualBlock(nn.Module):
    """A `ResidualBlock` whose sum is made by its last convolution.

    Args:
        block: whose weights are taken over.
        shapes: of the inputs of its convolutions.
        dtype: that it computes in.
    """

    def __init__(self, block: ResidualBlock, shapes: Shapes, dtype: torch.dtype) -> None:
        super().__init__()
        first, last = block.body[0], block.body[1]
        assert isinstance(last, nn.Conv2d)
        self._first = _fused(first, shapes, dtype)
        self._last = FusedConvolution(last, None, shapes[last], dtype)
        self._shortcut = _fused(block.shortcut, shapes, dtype)
        self._slope = block.activation.negative_slope

    def forward(self, features: Tensor) -> Tensor:
        """As the block's; without a convolution in the shortcut `features` are overwritten, which nothing else needs,
        since a block never comes first."""
        added = self._last.add_to(self._shortcut(features), self._first(features))
        return functional.leaky_relu(added, self._slope, inplace=True)


class FusedTiles(nn.Module):
    """The end of a decoder over tiles, from (B, C, J, I) to (B, 1, 2 J, 2 I).

    Args:
        ends: its convolutions.
        activation: between them.
        shape: (B, C, J, I).
        dtype: that it computes in.
    """

    def __init__(self, ends: Tiled, activation: nn.LeakyReLU, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        super().__init__()
        batch, _, height, width = shape
        of_cells = (batch, ends.to_tiles.in_channels, height + 1, width + 1)
        self._to_cells = FusedConvolution(ends.to_cells, activation, shape, dtype)
        self._to_tiles = FusedConvolution(ends.to_tiles, None, of_cells, dtype)

    def forward(self, features: Tensor) -> Tensor:
        """Logits."""
        cells = clear_outside(self._to_cells(features))
        return from_tiles(self._to_tiles(cells))


def _fused(module: nn.Module, shapes: Shapes, dtype: torch.dtype) -> nn.Module:
    if isinstance(module, ResidualBlock):
        return FusedResidualBlock(module, shapes, dtype)
    if isinstance(module, nn.Sequential):
        return _fused_chain(module, shapes, dtype)
    if isinstance(module, _CONVOLUTIONS):
        return FusedConvolution(module, None, shapes[module], dtype)
    return module


def _fused_chain(chain: nn.Sequential, shapes: Shapes, dtype: torch.dtype) -> nn.Sequential:
    layers = [layer for layer in chain if not isinstance(layer, nn.Identity)]
    if (end := _tiled_end(layers[-2:], shapes, dtype)) is not None:
        return nn.Sequential(*_fused_layers(layers[:-2], shapes, dtype), end)
    return nn.Sequential(*_fused_layers(layers, shapes, dtype))


def _fused_layers(layers: Sequence[nn.Module], shapes: Shapes, dtype: torch.dtype) -> list[nn.Module]:
    made: list[nn.Module] = []
    for layer, following in pairwise([*layers, nn.Identity()]):
        if isinstance(layer, _CONVOLUTIONS) and isinstance(following, nn.LeakyReLU):
            made.append(FusedConvolution(layer, following, shapes[layer], dtype))
        elif not (isinstance(layer, nn.LeakyReLU) and made and isinstance(made[-1], FusedConvolution)):
            made.append(_fused(layer, shapes, dtype))
    return made


def _tiled_end(layers: Sequence[nn.Module], shapes: Shapes, dtype: torch.dtype) -> nn.Module | None:
    """The last two layers of a decoder over tiles; None for anything else."""
    match layers:
        case [TransposeBlock() as block, nn.Conv2d() as last]:
            match [*block]:
                case [nn.ConvTranspose2d() as doubling, nn.Identity(), nn.LeakyReLU() as activation]:
                    if is_tileable(doubling, last, shapes[doubling]):
                        return FusedTiles(tiled(doubling, last), activation, shapes[doubling], dtype)
    return None
