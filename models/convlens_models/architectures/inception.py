"""Inception v3 (Szegedy et al. 2016, arXiv:1512.00567)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convlens_models.architectures.base import ConvNormRelu

# Names are those of the released weights; `branch7x7dbl_3` is the third unit of the doubled 7x7 branch.


class InceptionA(nn.Module):
    """35x35: 1x1; 5x5; doubled 3x3; average pool."""

    def __init__(self, channels: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = ConvNormRelu(channels, 64, 1)
        self.branch5x5_1 = ConvNormRelu(channels, 48, 1)
        self.branch5x5_2 = ConvNormRelu(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = ConvNormRelu(channels, 64, 1)
        self.branch3x3dbl_2 = ConvNormRelu(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvNormRelu(96, 96, 3, padding=1)
        self.pool = nn.AvgPool2d(3, stride=1, padding=1)
        self.branch_pool = ConvNormRelu(channels, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, 224 + pooled, H, W)."""
        five = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(self.pool(x))], 1)


class InceptionB(nn.Module):
    """35x35 to 17x17."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3 = ConvNormRelu(channels, 384, 3, stride=2)
        self.branch3x3dbl_1 = ConvNormRelu(channels, 64, 1)
        self.branch3x3dbl_2 = ConvNormRelu(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvNormRelu(96, 96, 3, stride=2)
        self.pool = nn.MaxPool2d(3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, 480 + channels, H', W')."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, self.pool(x)], 1)


class InceptionC(nn.Module):
    """17x17 with 7x7 kernels split into 1x7 and 7x1, `width` channels inside."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        across: tuple[tuple[int, int], tuple[int, int]] = ((1, 7), (0, 3))
        down: tuple[tuple[int, int], tuple[int, int]] = ((7, 1), (3, 0))
        self.branch1x1 = ConvNormRelu(channels, 192, 1)
        self.branch7x7_1 = ConvNormRelu(channels, width, 1)
        self.branch7x7_2 = ConvNormRelu(width, width, across[0], padding=across[1])
        self.branch7x7_3 = ConvNormRelu(width, 192, down[0], padding=down[1])
        self.branch7x7dbl_1 = ConvNormRelu(channels, width, 1)
        self.branch7x7dbl_2 = ConvNormRelu(width, width, down[0], padding=down[1])
        self.branch7x7dbl_3 = ConvNormRelu(width, width, across[0], padding=across[1])
        self.branch7x7dbl_4 = ConvNormRelu(width, width, down[0], padding=down[1])
        self.branch7x7dbl_5 = ConvNormRelu(width, 192, across[0], padding=across[1])
        self.pool = nn.AvgPool2d(3, stride=1, padding=1)
        self.branch_pool = ConvNormRelu(channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, 768, H, W)."""
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(self.pool(x))], 1)


class InceptionD(nn.Module):
    """17x17 to 8x8."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3_1 = ConvNormRelu(channels, 192, 1)
        self.branch3x3_2 = ConvNormRelu(192, 320, 3, stride=2)
        self.branch7x7x3_1 = ConvNormRelu(channels, 192, 1)
        self.branch7x7x3_2 = ConvNormRelu(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = ConvNormRelu(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = ConvNormRelu(192, 192, 3, stride=2)
        self.pool = nn.MaxPool2d(3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, 512 + channels, H', W')."""
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_2(self.branch7x7x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(seven))
        return torch.cat([three, seven, self.pool(x)], 1)


class InceptionE(nn.Module):
    """8x8 with branches that fork into 1x3 and 3x1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch1x1 = ConvNormRelu(channels, 320, 1)
        self.branch3x3_1 = ConvNormRelu(channels, 384, 1)
        self.branch3x3_2a = ConvNormRelu(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = ConvNormRelu(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = ConvNormRelu(channels, 448, 1)
        self.branch3x3dbl_2 = ConvNormRelu(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = ConvNormRelu(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = ConvNormRelu(384, 384, (3, 1), padding=(1, 0))
        self.pool = nn.AvgPool2d(3, stride=1, padding=1)
        self.branch_pool = ConvNormRelu(channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, 2048, H, W)."""
        three = self.branch3x3_1(x)
        three = torch.cat([self.branch3x3_2a(three), self.branch3x3_2b(three)], 1)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        double = torch.cat([self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)], 1)
        return torch.cat([self.branch1x1(x), three, double, self.branch_pool(self.pool(x))], 1)


class AuxiliaryHead(nn.Module):
    """A classifier on a middle layer that only training uses; its weights load, it never runs."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv0 = ConvNormRelu(channels, 128, 1)
        self.conv1 = ConvNormRelu(128, 768, 5)
        self.fc = nn.Linear(768, classes)


class InceptionV3(nn.Module):
    """Eleven Inception modules; (N, 3, H, W) from 75 pixels a side to logits (N, classes)."""

    def __init__(self, classes: int = 1000, auxiliary: bool = False) -> None:
        super().__init__()
        trunk: dict[str, nn.Module] = {
            "Conv2d_1a_3x3": ConvNormRelu(3, 32, 3, stride=2),
            "Conv2d_2a_3x3": ConvNormRelu(32, 32, 3),
            "Conv2d_2b_3x3": ConvNormRelu(32, 64, 3, padding=1),
            "maxpool1": nn.MaxPool2d(3, stride=2),
            "Conv2d_3b_1x1": ConvNormRelu(64, 80, 1),
            "Conv2d_4a_3x3": ConvNormRelu(80, 192, 3),
            "maxpool2": nn.MaxPool2d(3, stride=2),
            "Mixed_5b": InceptionA(192, 32),
            "Mixed_5c": InceptionA(256, 64),
            "Mixed_5d": InceptionA(288, 64),
            "Mixed_6a": InceptionB(288),
            "Mixed_6b": InceptionC(768, 128),
            "Mixed_6c": InceptionC(768, 160),
            "Mixed_6d": InceptionC(768, 160),
            "Mixed_6e": InceptionC(768, 192),
            "Mixed_7a": InceptionD(768),
            "Mixed_7b": InceptionE(1280),
            "Mixed_7c": InceptionE(2048),
            "avgpool": nn.AdaptiveAvgPool2d(1),
            "dropout": nn.Dropout(),
        }
        for name, layer in trunk.items():
            self.add_module(name, layer)
        self._trunk = tuple(trunk)
        if auxiliary:
            self.AuxLogits = AuxiliaryHead(768, classes)
        self.fc = nn.Linear(2048, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images."""
        for name in self._trunk:
            x = self.get_submodule(name)(x)
        out: Tensor = self.fc(x.flatten(1))
        return out
