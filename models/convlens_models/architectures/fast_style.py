"""The image transformation network of fast style transfer.

Johnson, Alahi, Fei-Fei: Perceptual losses for real-time style transfer and super-resolution (2016),
arXiv:1603.08155. Departures: instance norm (Ulyanov et al. 2016, arXiv:1607.08022), upsampling by nearest
neighbours and a convolution instead of transposed convolutions, which draw checkerboards (Odena et al. 2016,
doi:10.23915/distill.00003), and a sigmoid at the end, so that pixels are in [0, 1]. TransformerNet of
pytorch/examples is this network without the sigmoid; its pixels are clipped.
"""

from __future__ import annotations

from torch import Tensor, nn


def _convolution(channels: int, filters: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """Reflected borders instead of zeros, which would draw a frame."""
    return [nn.ReflectionPad2d(kernel // 2), nn.Conv2d(channels, filters, kernel, stride)]


def _block(channels: int, filters: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    norm = nn.InstanceNorm2d(filters, affine=True)
    return [*_convolution(channels, filters, kernel, stride), norm, nn.ReLU()]


class Residual(nn.Module):
    """Two 3x3 convolutions, added to what came in (R128 in the paper's names)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_block(channels, channels, 3),
            *_convolution(channels, channels, 3),
            nn.InstanceNorm2d(channels, affine=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        out: Tensor = x + self.body(x)
        return out


class FastStyle(nn.Module):
    """c9s1-32, d64, d128, five R128, u64, u32, c9s1-3; (N, 3, H, W) normalised RGB to (N, 3, H, W) in [0, 1].

    Sizes come out rounded up to multiples of 4; what is beyond the input lies right and below.

    Args:
        width: channels of the first layer, 32 in the paper; all others are multiples of it.
        end: brings the last layer's values into [0, 1]; a sigmoid by default.
    """

    def __init__(self, width: int = 32, end: nn.Module | None = None) -> None:
        super().__init__()
        double, inner = 2 * width, 4 * width
        self.down = nn.Sequential(
            *_block(3, width, 9), *_block(width, double, 3, 2), *_block(double, inner, 3, 2)
        )
        self.residuals = nn.Sequential(*(Residual(inner) for _ in range(5)))
        self.up = nn.Sequential(
            nn.Upsample(scale_factor=2),
            *_block(inner, double, 3),
            nn.Upsample(scale_factor=2),
            *_block(double, width, 3),
        )
        self.paint = nn.Sequential(*_convolution(width, 3, 9), nn.Sigmoid() if end is None else end)

    def forward(self, x: Tensor) -> Tensor:
        """Painted images."""
        out: Tensor = self.paint(self.up(self.residuals(self.down(x))))
        return out
