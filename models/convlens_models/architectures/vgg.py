"""VGG (Simonyan & Zisserman 2015, arXiv:1409.1556), configurations D and E."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

from torch import Tensor, nn

WIDTHS: Final = (64, 128, 256, 512, 512)


class Vgg(nn.Module):
    """Five groups of 3x3 convolutions, `depths` of them each; (N, 3, 224, 224) to logits (N, classes)."""

    def __init__(self, depths: tuple[int, ...], classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(*_groups(depths))
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images."""
        out: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return out


def _groups(depths: tuple[int, ...]) -> Iterator[nn.Module]:
    channels = 3
    for width, depth in zip(WIDTHS, depths, strict=True):
        for _ in range(depth):
            yield nn.Conv2d(channels, width, 3, padding=1)
            yield nn.ReLU()
            channels = width
        yield nn.MaxPool2d(2, stride=2)


vgg16 = partial(Vgg, (2, 2, 3, 3, 3))
vgg19 = partial(Vgg, (2, 2, 4, 4, 4))
