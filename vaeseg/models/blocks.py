"""The parts that every network of the family is built from.

B batch, C channels, J I space, Z latent.
"""

from __future__ import annotations

from torch import Tensor, nn


class ConvBlock(nn.Sequential):
    """3 x 3 Conv2d without bias, BatchNorm, LeakyReLU: (B, C, J, I) to (B, C', J / stride, I / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, stride, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.LeakyReLU(inplace=True),
        )


class TransposeBlock(nn.Sequential):
    """ConvTranspose2d without bias, BatchNorm, LeakyReLU: (B, C, J, I) to (B, C', stride * J, stride * I)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 4, stride: int = 2, padding: int = 1) -> None:
        super().__init__(
            nn.ConvTranspose2d(in_channels, out_channels, kernel, stride, padding, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.LeakyReLU(inplace=True),
        )


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut (He et al. 2016): (B, C, J, I) to (B, C', J / stride, I / stride).

    The shortcut averages before its 1 x 1 convolution instead of striding (He et al. 2019): a strided one drops three
    pixels of four, and its backward pass in channels_last corrupts memory (torch 2.13 on CPU, 8 to 16 channels).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ConvBlock(in_channels, out_channels, stride, dilation),
            nn.Conv2d(out_channels, out_channels, 3, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride),
                nn.Conv2d(in_channels, out_channels, 1, bias=False),
                nn.BatchNorm2d(out_channels),
            )
        self.activation = nn.LeakyReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """Body plus shortcut, then LeakyReLU."""
        activated: Tensor = self.activation(self.body(features) + self.shortcut(features))
        return activated
