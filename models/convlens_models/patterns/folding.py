"""Batch normalisation for the training alone: put in before it, folded into the convolutions after it."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from convlens_models.architectures.patterns import Patterns


def with_batch_norm(net: Patterns) -> Patterns:
    """The network with a BatchNorm2d after each convolution, which lose their bias and start by He's rule.

    The first layer's filters start as smooth noise: the images hardly contain fine grain, so no gradient
    would smooth it away, and it would stay to be seen.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, layer in net.features.named_children():
        layers[name] = layer
        if isinstance(layer, nn.Conv2d):
            layer.bias = None
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            layers[name.replace("conv", "norm")] = nn.BatchNorm2d(layer.out_channels)
    net.features = nn.Sequential(layers)
    _smooth(net.features[0])
    return net


@torch.no_grad()
def _smooth(first: nn.Module) -> None:
    """Each filter blurred by a binomial window, its energy kept."""
    assert isinstance(first, nn.Conv2d)
    row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0])
    window = torch.outer(row, row).expand(first.in_channels, 1, -1, -1)
    soft = nn.functional.conv2d(first.weight, window, padding=2, groups=first.in_channels)
    first.weight.copy_(soft * (first.weight.norm() / soft.norm()))


@torch.no_grad()
def folded(trained: Patterns) -> Patterns:
    """The plain network of equal outputs in evaluation: w' = w g / s, b' = b - m g / s, s the deviation."""
    plain = Patterns(trained.classifier.out_features)
    layers = dict(trained.features.named_children())
    for name, layer in plain.features.named_children():
        if isinstance(layer, nn.Conv2d):
            source, norm = layers[name], layers[name.replace("conv", "norm")]
            assert isinstance(source, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            assert layer.bias is not None
            assert norm.running_mean is not None
            assert norm.running_var is not None
            gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            layer.weight.copy_(source.weight * gain[:, None, None, None])
            layer.bias.copy_(norm.bias - norm.running_mean * gain)
    plain.classifier.load_state_dict(trained.classifier.state_dict())
    return plain.eval()
