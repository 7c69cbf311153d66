"""The built-in networks; their `state_dict` keys and shapes are torchvision's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from torch import nn

from convlens_models.architectures.alexnet import AlexNet
from convlens_models.architectures.base import HALF, Architecture
from convlens_models.architectures.efficientnet_lite import (
    BYTE_MEAN,
    BYTE_STD,
    efficientnet_lite0,
    efficientnet_lite1,
    efficientnet_lite2,
)
from convlens_models.architectures.googlenet import GoogLeNet
from convlens_models.architectures.inception import InceptionV3
from convlens_models.architectures.patterns import INPUT_SIZE, MEAN, STD, Patterns
from convlens_models.architectures.resnet import resnet18, resnet50
from convlens_models.architectures.squeezenet import squeezenet1_0, squeezenet1_1
from convlens_models.architectures.vgg import vgg16, vgg19


def _lite(build: Callable[..., nn.Module], size: int, dreams: int) -> Architecture:
    """Dreams are of the second block of the fifth stage: those before it draw lines, those after it grain."""
    layers = (f"_blocks.{dreams}",)
    return Architecture(build, "_fc", size, BYTE_MEAN, BYTE_STD, dream_layers=layers, interpolation="bicubic")


ARCHITECTURES: Final[dict[str, Architecture]] = {
    "alexnet": Architecture(AlexNet, "classifier.6", dream_layers=("features.9",)),
    "vgg16": Architecture(vgg16, "classifier.6", dream_layers=("features.22",)),
    "vgg19": Architecture(vgg19, "classifier.6", dream_layers=("features.26",)),
    # What weights that came with `transform_input` expect.
    "googlenet": Architecture(
        GoogLeNet, "fc", 224, HALF, HALF, dream_layers=("inception4c",), auxiliary=("aux1.", "aux2.")
    ),
    "inception_v3": Architecture(
        InceptionV3, "fc", 299, HALF, HALF, dream_layers=("Mixed_6c",), auxiliary=("AuxLogits.",)
    ),
    "squeezenet1_0": Architecture(squeezenet1_0, "classifier.1", dream_layers=("features.10", "features.12")),
    "squeezenet1_1": Architecture(squeezenet1_1, "classifier.1", dream_layers=("features.11", "features.12")),
    "resnet18": Architecture(resnet18, "fc", dream_layers=("layer3.1",)),
    "resnet50": Architecture(resnet50, "fc", dream_layers=("layer3.3",)),
    "efficientnet_lite0": _lite(efficientnet_lite0, 224, 9),
    "efficientnet_lite1": _lite(efficientnet_lite1, 240, 12),
    "efficientnet_lite2": _lite(efficientnet_lite2, 260, 12),
    "patterns": Architecture(
        Patterns, "classifier", INPUT_SIZE, MEAN, STD, dream_layers=("features.relu4_1", "features.relu4_2")
    ),
}
