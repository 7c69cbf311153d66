"""What every architecture has, and the parts that several of them share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from torch import Tensor, nn

from convlens_models.manifest import Interpolation

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
HALF: Final = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Architecture:
    """A built-in network: how it is built, and what its weights expect of the input.

    Attributes:
        build: makes the module for a number of classes, with random weights.
        head: the layer whose bias has one entry a class.
        input_size: side of the square image it was made for, in pixels.
        dream_layers: layers whose amplification makes a good DeepDream.
        auxiliary: prefixes of the keys of heads that only training needs; `build(classes, auxiliary=True)`
            has them.
        interpolation: how pictures were brought to size when its weights were trained.
    """

    build: Callable[..., nn.Module]
    head: str
    input_size: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    dream_layers: tuple[str, ...] = ()
    auxiliary: tuple[str, ...] = ()
    interpolation: Interpolation = "bilinear"


class ConvNormRelu(nn.Module):
    """Convolution without bias, batch norm, ReLU: the unit of GoogLeNet and Inception v3."""

    def __init__(
        self,
        channels: int,
        filters: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, filters, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(filters, eps=0.001)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, filters, H', W')."""
        out: Tensor = self.relu(self.bn(self.conv(x)))
        return out
