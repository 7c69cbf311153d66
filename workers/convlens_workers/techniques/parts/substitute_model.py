"""The substitute model: a small network that learns to answer as the victim of a substitute attack does."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from convlens_models.measures.seeds import folded
from convlens_workers.techniques.base import State
from convlens_workers.techniques.parts.optimisers import VARIABLE, adam, joined, separated

WIDTH: Final = 24
MEAN, DEVIATION = 0.5, 0.25
AVERAGES: Final = "averages"
"""Running means and variances of the batch norms, one after the other."""


class SubstituteModel:
    """A strided 5x5 convolution and three 3x3 ones, batch norms, the mean over positions, a linear layer.

    Its weights are not in it but in a state: `VARIABLE`, all parameters in one vector, as optimisers have it,
    and `AVERAGES`. Images are (N, 3, H, W) in [0, 1], at least 32 x 32.
    """

    def __init__(self, classes: int, device: torch.device) -> None:
        self.classes = classes
        self.device = device
        self._module = build(classes).to(device)
        self._shapes = {name: value.shape for name, value in self._module.named_parameters()}
        self._average_shapes = {name: value.shape for name, value in self._module.named_buffers()}

    def untrained(self, seed: int) -> State:
        """The state of an untrained model: random weights, the same for every device."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(folded(seed))
            module = build(self.classes)
        parts = {VARIABLE: module.parameters(), AVERAGES: module.buffers()}
        return {name: joined(values).to(self.device) for name, values in parts.items()}

    def weights(self, held: State) -> dict[str, Tensor]:
        """Parameters and running averages by their names in the module's `state_dict`."""
        return separated(held[VARIABLE], self._shapes) | separated(held[AVERAGES], self._average_shapes)

    def logits(self, held: State, images: Tensor) -> Tensor:
        """Scores (N, classes), within the autograd graph of the images."""
        self._module.eval()
        scores: Tensor = functional_call(self._module, self.weights(held), (normalised(images),))
        return scores

    def taught(self, held: State, images: Tensor, answers: Tensor, rate: float) -> tuple[State, Tensor]:
        """The state after a step of Adam on the cross entropy to `answers` (N, classes), and its value."""
        self._module.train()
        averages = separated(held[AVERAGES].clone(), self._average_shapes)  # Changed in place by the pass.

        def evaluate(x: Tensor) -> tuple[Tensor, State]:
            weights = separated(x, self._shapes) | averages
            scores = functional_call(self._module, weights, (normalised(images),))
            loss = F.cross_entropy(scores, answers)
            return loss, {"cross_entropy": loss}

        after, losses = adam(rate).step(held, evaluate)
        return after | {AVERAGES: joined(averages.values())}, losses["cross_entropy"]


def build(classes: int) -> nn.Module:
    """The untrained module for so many classes, in float32."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    plan = ((3, 1, 5, 2, True), (1, 2, 3, 1, True), (2, 4, 3, 1, True), (4, 6, 3, 1, False))
    for number, (inputs, outputs, side, stride, pooled) in enumerate(plan, start=1):
        channels = inputs if number == 1 else inputs * WIDTH
        made = outputs * WIDTH
        layers[f"conv{number}"] = nn.Conv2d(channels, made, side, stride, padding=side // 2, bias=False)
        layers[f"norm{number}"] = norm = nn.BatchNorm2d(made)
        norm.num_batches_tracked = None  # Nothing needs it, and states hold floats.
        layers[f"relu{number}"] = nn.ReLU()
        if pooled:
            layers[f"pool{number}"] = nn.MaxPool2d(2)
    layers["mean"] = nn.AdaptiveAvgPool2d(1)
    layers["flat"] = nn.Flatten()
    layers["classifier"] = nn.Linear(plan[-1][1] * WIDTH, classes)
    return nn.Sequential(layers)


def normalised(images: Tensor) -> Tensor:
    """The input of the module; channels last in memory, which is half as fast again on a CPU."""
    return ((images - MEAN) / DEVIATION).contiguous(memory_format=torch.channels_last)
