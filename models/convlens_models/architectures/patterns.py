"""The embedded model's network: VGG's plan (Simonyan & Zisserman, ICLR 2015), narrow.

A 7x7 convolution of stride 2 whose filters are large enough to look at, then blocks of 3x3 convolutions
between 2x2 max-pools, the average over positions, and one linear layer.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

INPUT_SIZE = 96
MEAN = (0.5, 0.5, 0.5)  # pixels are RGB in [0,1]; the network takes (pixels - MEAN) / STD
STD = (0.25, 0.25, 0.25)

FIRST = 40
BLOCKS = (
    (48,),
    (64, 80),
    (112, 128),
    (160, 160),
)  # channels of the 3x3 convolutions, a pool after each block but the last


class Patterns(nn.Module):
    """Normalised images float32 (batch, 3, height, width), at least 16x16, to class scores (batch, classes).

    Layers are named as in the papers: ``features.conv3_2`` is the second convolution of the third block,
    and its activations are ``features.relu3_2``.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv1"] = nn.Conv2d(3, FIRST, 7, stride=2, padding=3)
        layers["relu1"] = nn.ReLU()
        channels = FIRST
        for number, block in enumerate(BLOCKS, start=2):
            for index, width in enumerate(block, start=1):
                name = f"{number}_{index}" if len(block) > 1 else f"{number}"
                layers[f"conv{name}"] = nn.Conv2d(channels, width, 3, padding=1)
                layers[f"relu{name}"] = nn.ReLU()
                channels = width
            if number <= len(BLOCKS):
                layers[f"pool{number}"] = nn.MaxPool2d(2)
        self.features = nn.Sequential(layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores before the softmax."""
        scores: torch.Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return scores
