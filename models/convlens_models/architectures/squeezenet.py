"""SqueezeNet 1.0 and 1.1 (Iandola et al. 2016, arXiv:1602.07360)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Fire(nn.Module):
    """A 1x1 squeeze, then 1x1 and 3x3 expansions side by side."""

    def __init__(self, channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeeze, 1)
        self.squeeze_activation = nn.ReLU()
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand1x1_activation = nn.ReLU()
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)
        self.expand3x3_activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, 2 expand, H, W)."""
        x = self.squeeze_activation(self.squeeze(x))
        narrow = self.expand1x1_activation(self.expand1x1(x))
        wide = self.expand3x3_activation(self.expand3x3(x))
        return torch.cat([narrow, wide], 1)


class SqueezeNet(nn.Module):
    """A stem and eight fire modules; (N, 3, H, W) to logits (N, classes), of any size from 21 pixels."""

    def __init__(self, features: nn.Sequential, classes: int) -> None:
        super().__init__()
        self.features = features
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Conv2d(512, classes, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images."""
        out: Tensor = self.classifier(self.features(x)).flatten(1)
        return out


def _squeezenet(stem: nn.Conv2d, squeezes: Sequence[int], classes: int) -> SqueezeNet:
    """The stem, then a pool for each 0, and a fire module for each number of squeezed channels."""
    layers: list[nn.Module] = [stem, nn.ReLU()]
    channels = stem.out_channels
    for squeeze in squeezes:
        layers.append(
            Fire(channels, squeeze, 4 * squeeze) if squeeze else nn.MaxPool2d(3, stride=2, ceil_mode=True)
        )
        channels = 8 * squeeze or channels
    return SqueezeNet(nn.Sequential(*layers), classes)


def squeezenet1_0(classes: int = 1000) -> SqueezeNet:
    """SqueezeNet 1.0: a 7x7 stem, pools after the stem and fires 4 and 8."""
    stem = nn.Conv2d(3, 96, 7, stride=2)
    return _squeezenet(stem, (0, 16, 16, 32, 0, 32, 48, 48, 64, 0, 64), classes)


def squeezenet1_1(classes: int = 1000) -> SqueezeNet:
    """SqueezeNet 1.1: a 3x3 stem and earlier pools, 2.4 times less work."""
    stem = nn.Conv2d(3, 64, 3, stride=2)
    return _squeezenet(stem, (0, 16, 16, 0, 32, 32, 0, 48, 48, 64, 64), classes)
