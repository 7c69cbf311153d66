"""The targets of a request resolved to cotangents, and the goals of its attacks to classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from convlens import wire
from convlens.errors import InvalidArgument
from convlens.v1 import attack_pb2, attribution_pb2, target_pb2
from convlens_models.backend import F32, Backend
from convlens_models.manifest import LOG_PROBABILITIES, Manifest
from convlens_models.measures.certificate import AttackGoal

Values = Mapping[str, F32]


@dataclass(frozen=True)
class Target:
    """A scalar an image: the inner product of a layer's value with a cotangent.

    Attributes:
        layer: the layer that the scalar is read from.
        cotangent: an array of the shape of the layer's value, (N, C, H, W) or (N, C).
        classes: the class that is meant for each image; empty for targets that are no classes.
    """

    layer: str
    cotangent: F32
    classes: tuple[int, ...] = ()

    def value(self, layer_value: F32) -> F32:
        """The scalar of each image, (N,), given the value of `layer`."""
        product = layer_value * self.cotangent
        return np.asarray(product.reshape(len(product), -1).sum(axis=1))

    def of(self, position: int) -> Target:
        """The target of the one image at `position`."""
        only = slice(position, position + 1)
        return Target(self.layer, self.cotangent[only], self.classes[only])

    def repeated(self, count: int) -> Target:
        """The target of `count` copies of an image, from the target of the image."""
        shape = (count, *self.cotangent.shape[1:])
        return Target(self.layer, np.broadcast_to(self.cotangent, shape), self.classes * count)


def layer_of(target: target_pb2.Target, manifest: Manifest) -> str:
    """The layer that a target is read from."""
    match target.WhichOneof("target"):
        case "neuron" | "channel" | "direction" as kind:
            layer: str = getattr(target, kind).layer
            return layer
        case "log_probability":
            return LOG_PROBABILITIES
        case _:
            return manifest.output


def needs_forward(target: target_pb2.Target) -> bool:
    """Whether resolving takes the network's own values: to predict the class, or to see the size of a map."""
    kind = target.WhichOneof("target") or "class_score"
    return kind in INSIDE or not getattr(target, kind).HasField("index")


def resolve(target: target_pb2.Target, manifest: Manifest, count: int, values: Values, field: str) -> Target:
    """A validated target, resolved for `count` images.

    Args:
        values: values of at least `layer_of(target)`, where `needs_forward`.
        field: path of the target in the request, for messages.

    Raises:
        InvalidArgument: a neuron or channel outside its layer's map, naming the range at this size of the
            images; a direction that is none of the layer's.
    """
    layer = layer_of(target, manifest)
    kind = target.WhichOneof("target") or "class_score"
    wanted = getattr(target, kind)
    if kind in INSIDE:
        return Target(layer, INSIDE[kind](wanted, values[layer], f"{field}.{kind}"))
    classes = np.full(count, wanted.index) if wanted.HasField("index") else values[layer].argmax(axis=1)
    return Target(layer, one_hot(classes, len(manifest.labels)), tuple(classes.tolist()))


def resolve_all(
    backend: Backend, images: F32, requested: Sequence[attribution_pb2.Attribution], field: str
) -> list[Target]:
    """The target of each of the attributions; one forward pass serves all that need one.

    Args:
        field: path of the attributions in the request, for messages.

    Raises:
        InvalidArgument: as `resolve`.
    """
    manifest = backend.stored.manifest
    layers = {layer_of(item.target, manifest) for item in requested if needs_forward(item.target)}
    values = backend.forward(images, sorted(layers)) if layers else {}
    return [
        resolve(item.target, manifest, len(images), values, f"{field}[{position}].target")
        for position, item in enumerate(requested)
    ]


def resolve_goal(
    request: attack_pb2.AttackRequest, predicted: NDArray[np.int64], *, independent: bool = False
) -> AttackGoal:
    """The goal of a validated request; untargeted and without labels it is to leave the `predicted` classes.

    Raises:
        InvalidArgument: labels, but not one for each image.
    """
    labels = request.untargeted.labels
    if request.WhichOneof("goal") == "targeted":
        return AttackGoal(True, np.full(len(predicted), request.targeted.index), independent)
    if labels and len(labels) != len(predicted):
        raise InvalidArgument.of(
            "untargeted.labels", f"{len(labels)} items", f"none or {len(predicted)} items"
        )
    return AttackGoal(False, np.asarray(labels, np.int64) if labels else predicted, independent)


def one_hot(classes: Sequence[int] | NDArray[np.int64], width: int) -> F32:
    """Float32 (N, width) with a 1 at each image's class."""
    return np.asarray(np.eye(width, dtype=np.float32)[np.asarray(classes)])


def _neuron(neuron: target_pb2.Neuron, value: F32, field: str) -> F32:
    """A one-hot at the neuron for every image."""
    channels, height, width = _extents(value)
    for name, extent in (("channel", channels), ("y", height), ("x", width)):
        _check_position(neuron, name, extent, value, field)
    cotangent = np.zeros((len(value), channels, height, width), np.float32)
    cotangent[:, neuron.channel, neuron.y, neuron.x] = 1
    return cotangent.reshape(value.shape)


def _channel(target: target_pb2.ChannelTarget, value: F32, field: str) -> F32:
    """One over the number of positions at each position of the channel."""
    _check_position(target, "channel", value.shape[1], value, field)
    return _everywhere(np.eye(1, value.shape[1], target.channel)[0], value)


def _direction(target: target_pb2.DirectionTarget, value: F32, field: str) -> F32:
    """The direction over the number of positions, at each position."""
    vector = wire.from_tensor(target.vector, f"{field}.vector")
    shown = f"{vector.dtype} of shape {list(vector.shape)}"
    if vector.dtype != np.float32 or vector.shape != value.shape[1:2]:
        allowed = f"float32 of shape [{value.shape[1]}], a number for each channel of {target.layer}"
        raise InvalidArgument.of(f"{field}.vector", shown, allowed)
    if not np.isfinite(vector).all() or not vector.any():
        raise InvalidArgument.of(f"{field}.vector", shown, "of finite numbers that are not all 0")
    return _everywhere(vector, value)


def _everywhere(channels: NDArray[Any], value: F32) -> F32:
    """The mean over the positions of a weighted sum of the channels, as a cotangent for every image."""
    _, height, width = _extents(value)
    weights = (channels / (height * width)).astype(np.float32)
    return np.broadcast_to(weights.reshape(1, -1, *[1] * (value.ndim - 2)), value.shape)


def _extents(value: F32) -> tuple[int, int, int]:
    """Channels, height and width; a layer without spatial axes is a map of one position."""
    channels, height, width = (*value.shape[1:], 1, 1)[:3]
    return channels, height, width


def _check_position(target: Any, name: str, extent: int, value: F32, field: str) -> None:
    position = getattr(target, name)
    if position >= extent:
        shape = list(value.shape[1:])
        allowed = f"between 0 and {extent - 1}, as {target.layer} is {shape} at this size"
        raise InvalidArgument.of(f"{field}.{name}", position, allowed)


INSIDE: Final[Mapping[str, Callable[[Any, F32, str], F32]]] = {
    "neuron": _neuron,
    "channel": _channel,
    "direction": _direction,
}
"""The targets inside the network: the cotangent, given the target, the layer's value and the field's path."""
