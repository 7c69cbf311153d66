"""GoogLeNet, the first Inception (Szegedy et al. 2015, arXiv:1409.4842), with batch norm.

The third branch has 3x3 kernels where the paper has 5x5, as in the released weights that the keys come from.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from convlens_models.architectures.base import ConvNormRelu


class Inception(nn.Module):
    """Four branches side by side: 1x1; 1x1 and 3x3; 1x1 and 3x3; pool and 1x1."""

    def __init__(
        self, channels: int, one: int, two: tuple[int, int], three: tuple[int, int], four: int
    ) -> None:
        super().__init__()
        self.branch1 = ConvNormRelu(channels, one, 1)
        self.branch2 = nn.Sequential(
            ConvNormRelu(channels, two[0], 1), ConvNormRelu(two[0], two[1], 3, padding=1)
        )
        self.branch3 = nn.Sequential(
            ConvNormRelu(channels, three[0], 1), ConvNormRelu(three[0], three[1], 3, padding=1)
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1, ceil_mode=True), ConvNormRelu(channels, four, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, sum of the branches, H, W)."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class AuxiliaryHead(nn.Module):
    """A classifier on a middle layer that only training uses; its weights load, it never runs."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv = ConvNormRelu(channels, 128, 1)
        self.fc1 = nn.Linear(2048, 1024)
        self.fc2 = nn.Linear(1024, classes)


class GoogLeNet(nn.Module):
    """Nine Inception modules; (N, 3, H, W) of any size to logits (N, classes)."""

    def __init__(self, classes: int = 1000, auxiliary: bool = False) -> None:
        super().__init__()
        self.conv1 = ConvNormRelu(3, 64, 7, stride=2, padding=3)
        self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2 = ConvNormRelu(64, 64, 1)
        self.conv3 = ConvNormRelu(64, 192, 3, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception3a = Inception(192, 64, (96, 128), (16, 32), 32)
        self.inception3b = Inception(256, 128, (128, 192), (32, 96), 64)
        self.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception4a = Inception(480, 192, (96, 208), (16, 48), 64)
        self.inception4b = Inception(512, 160, (112, 224), (24, 64), 64)
        self.inception4c = Inception(512, 128, (128, 256), (24, 64), 64)
        self.inception4d = Inception(512, 112, (144, 288), (32, 64), 64)
        self.inception4e = Inception(528, 256, (160, 320), (32, 128), 128)
        self.maxpool4 = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.inception5a = Inception(832, 256, (160, 320), (32, 128), 128)
        self.inception5b = Inception(832, 384, (192, 384), (48, 128), 128)
        if auxiliary:
            self.aux1 = AuxiliaryHead(512, classes)
            self.aux2 = AuxiliaryHead(528, classes)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(1024, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images."""
        for layer in self._trunk():
            x = layer(x)
        out: Tensor = self.fc(self.dropout(self.avgpool(x).flatten(1)))
        return out

    def _trunk(self) -> Iterator[nn.Module]:
        for name, layer in self.named_children():
            if name == "avgpool":
                return
            if not name.startswith("aux"):
                yield layer
