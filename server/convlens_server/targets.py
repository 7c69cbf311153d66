"""What a request aims at, resolved: targets become cotangents, goals become classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convlens.errors import InvalidArgument
from convlens.v1 import attack_pb2, target_pb2
from convlens_models.manifest import LOG_PROBABILITIES, Manifest
from convlens_server.engines.base import F32

Values = Mapping[str, F32]


@dataclass(frozen=True)
class Aim:
    """A scalar an image: the inner product of a layer's value with a cotangent.

    Attributes:
        layer: the layer that it is read from.
        cotangent: of the shape of the layer's value, (N, C, H, W) or (N, C).
        classes: class that is meant for each image; empty for neurons.
    """

    layer: str
    cotangent: F32
    classes: tuple[int, ...] = ()

    def value(self, layer_value: F32) -> F32:
        """The scalar of each image, (N,), given the value of `layer`."""
        product = layer_value * self.cotangent
        return np.asarray(product.reshape(len(product), -1).sum(axis=1))


@dataclass(frozen=True)
class Goal:
    """What an attack wants: every image taken for its class (targeted), or for any other than its class."""

    targeted: bool
    classes: NDArray[np.int64]

    def met(self, predicted: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the goal is met for each image, given the predicted classes (N,)."""
        same: NDArray[np.bool_] = predicted == self.classes
        return same if self.targeted else ~same


def layer_of(target: target_pb2.Target, manifest: Manifest) -> str:
    """The layer that a target is read from."""
    match target.WhichOneof("target"):
        case "neuron":
            return target.neuron.layer
        case "log_probability":
            return LOG_PROBABILITIES
        case _:
            return manifest.output


def needs_forward(target: target_pb2.Target) -> bool:
    """Whether resolving takes the network's own values: to predict the class, or to see the size of a map."""
    kind = target.WhichOneof("target") or "class_score"
    return kind == "neuron" or not getattr(target, kind).HasField("index")


def resolve(target: target_pb2.Target, manifest: Manifest, count: int, values: Values, field: str) -> Aim:
    """The aim of a validated target for `count` images.

    Args:
        values: values of at least `layer_of(target)`, where `needs_forward`.
        field: path of the target in the request, for messages.

    Raises:
        InvalidArgument: a neuron outside its layer's map, naming the range at this size of the images.
    """
    layer = layer_of(target, manifest)
    if target.WhichOneof("target") == "neuron":
        return Aim(layer, _neuron(target.neuron, values[layer], f"{field}.neuron"))
    wanted = target.log_probability if layer == LOG_PROBABILITIES else target.class_score
    classes = np.full(count, wanted.index) if wanted.HasField("index") else values[layer].argmax(axis=1)
    return Aim(layer, one_hot(classes, len(manifest.labels)), tuple(classes.tolist()))


def resolve_goal(request: attack_pb2.AttackRequest, predicted: NDArray[np.int64]) -> Goal:
    """The goal of a validated request; untargeted and without labels it is to leave the `predicted` classes.

    Raises:
        InvalidArgument: labels, but not one for each image.
    """
    labels = request.untargeted.labels
    if request.WhichOneof("goal") == "targeted":
        return Goal(True, np.full(len(predicted), request.targeted.index))
    if labels and len(labels) != len(predicted):
        raise InvalidArgument.of(
            "untargeted.labels", f"{len(labels)} items", f"none or {len(predicted)} items"
        )
    return Goal(False, np.asarray(labels, np.int64) if labels else predicted)


def one_hot(classes: Sequence[int] | NDArray[np.int64], width: int) -> F32:
    """Float32 (N, width) with a 1 at each image's class."""
    return np.asarray(np.eye(width, dtype=np.float32)[np.asarray(classes)])


def _neuron(neuron: target_pb2.Neuron, value: F32, field: str) -> F32:
    """A one-hot at the neuron for every image; a layer without spatial axes is a map of one position."""
    channels, height, width = (*value.shape[1:], 1, 1)[:3]
    for name, extent in (("channel", channels), ("y", height), ("x", width)):
        position = getattr(neuron, name)
        if position >= extent:
            allowed = f"between 0 and {extent - 1}, as {neuron.layer} is {list(value.shape[1:])} at this size"
            raise InvalidArgument.of(f"{field}.{name}", position, allowed)
    cotangent = np.zeros((len(value), channels, height, width), np.float32)
    cotangent[:, neuron.channel, neuron.y, neuron.x] = 1
    return cotangent.reshape(value.shape)
