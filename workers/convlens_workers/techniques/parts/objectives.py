"""Objectives of feature visualisation: scalars of networks, one an image, from a request's targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from convlens import wire
from convlens.errors import InvalidArgument
from convlens.v1 import job_pb2, target_pb2
from convlens_models.manifest import Manifest
from convlens_workers.jobs.techniques.feature_visualisation import kind_and_message, layer_of, picture_size
from convlens_workers.jobs.techniques.transfer_matrix import scaled_size
from convlens_workers.techniques.base import FeatureNetwork, Task
from convlens_workers.techniques.parts.pixels import Size, covering, resize
from convlens_workers.techniques.parts.transforms import View, unchanged

LEAST_COSINE: Final = 0.1
"""Below it a caricature counts as if it were so much like its picture: at 0 there would be no way up."""
TINY: Final = 1e-12
Read = Callable[[Tensor, Tensor], Tensor]
"""From the values of a layer (N, C, ...) that of a target for each image, (N).

The second argument is the layer's value (1, C, ...) for the term's own picture, and empty where it has none.
"""


@dataclass(frozen=True)
class Viewer:
    """A network, and the size (height, width) at which it sees the pictures."""

    network: FeatureNetwork
    size: Size

    def taps(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """The values of `layers` for `images` (N, 3, H, W) of any size."""
        return self.network.taps(resize(images, self.size), layers)


@dataclass(frozen=True)
class Term:
    """A weighted target of an objective.

    Attributes:
        viewer: the network that it is read from.
        layer: that it is read from.
        weight: of it in the sum.
        read: its value for each image, (N), from the layer's (N, C, ...).
        picture: that it compares with, (1, 3, H, W), where it does.
    """

    viewer: Viewer
    layer: str
    weight: float
    read: Read
    picture: Tensor | None = None

    def value(self, values: Tensor, view: View) -> Tensor:
        """Its share of the objective for each image, (N), given its layer's values for what `view` showed."""
        if self.picture is None:
            return self.weight * self.read(values, values.new_empty(0))
        with torch.no_grad():
            own = self.viewer.taps(view(self.picture), [self.layer])[self.layer]
        return self.weight * self.read(values, own)


def terms(task: Task[job_pb2.FeatureVisualisation], number: int) -> list[Term]:
    """The terms of an objective of the task, by its place. Raises NotFound for a model that is gone."""
    found = []
    for position, item in enumerate(task.params.objectives[number].terms):
        path = f"objectives[{number}].terms[{position}]"
        viewer, manifest = _viewer(task, item)
        kind, message = kind_and_message(item)
        field = f"feature_visualisation.{path}.{'' if kind == CARICATURE else 'target.'}{kind}"
        read = READERS[kind](message, field)
        picture = task.images.get(f"{path}.{CARICATURE}.image")
        if picture is not None:
            picture = covering(picture, picture_size(task.params, task.manifest))
        found.append(Term(viewer, layer_of(item, manifest), item.weight, read, picture))
    return found


def measured(parts: Sequence[Term], images: Tensor, view: View = unchanged) -> tuple[Tensor, Tensor]:
    """The objective for each of `images` as `view` shows them, (N), and the first term's features."""
    seen, layers = view(images), dict[Viewer, list[str]]()
    for part in parts:
        layers.setdefault(part.viewer, []).append(part.layer)
    values = {viewer: viewer.taps(seen, names) for viewer, names in layers.items()}
    total = torch.stack([part.value(values[part.viewer][part.layer], view) for part in parts]).sum(0)
    return total, values[parts[0].viewer][parts[0].layer]


@contextmanager
def redirected(parts: Sequence[Term]) -> Iterator[None]:
    """Within it, gradients get through ReLUs that are closed everywhere, in each network of the terms."""
    with ExitStack() as stack:
        for network in {part.viewer.network for part in parts}:
            stack.enter_context(network.redirected())
        yield


def _viewer(task: Task[Any], item: job_pb2.WeightedTarget) -> tuple[Viewer, Manifest]:
    """The network that a term is read from; others see the pictures scaled by the ratio of input sizes."""
    size = picture_size(task.params, task.manifest)
    if not item.HasField("model"):
        return Viewer(task.network, size), task.manifest
    network, manifest = task.host.networks.get(item.model)
    return Viewer(network, scaled_size(size, task.manifest, manifest)), manifest


def _class(target: target_pb2.ClassTarget, _field: str) -> Read:
    return lambda value, _: value[:, target.index]


def _channel(target: target_pb2.ChannelTarget, _field: str) -> Read:
    return lambda value, _: value[:, target.channel].reshape(len(value), -1).mean(1)


def _neuron(target: target_pb2.Neuron, field: str) -> Read:
    def read(value: Tensor, _: Tensor) -> Tensor:
        height, width = (*value.shape[2:], 1, 1)[:2]
        for name, position, extent in (("y", target.y, height), ("x", target.x, width)):
            if position >= extent:  # Only the network tells how large the map is of other sizes than its own.
                allowed = f"between 0 and {extent - 1} in {target.layer} at this size"
                raise InvalidArgument.of(f"{field}.{name}", position, allowed)
        return value.reshape(*value.shape[:2], height, width)[:, target.channel, target.y, target.x]

    return read


def _direction(target: target_pb2.DirectionTarget, field: str) -> Read:
    vector = torch.tensor(wire.from_tensor(target.vector, f"{field}.vector"))
    return lambda value, _: (
        torch.einsum("c,ncp->n", vector.to(value), value.reshape(*value.shape[:2], -1))
        / (value[0, 0].numel())
    )


def _caricature(target: job_pb2.Caricature, _field: str) -> Read:
    """<x, y> max(0.1, cos(x, y))^power over the number of positions."""

    def read(value: Tensor, own: Tensor) -> Tensor:
        x, y = value.flatten(1), own.flatten(1)
        dot, lengths = x @ y[0], x.norm(dim=1) * y.norm()
        cosine: Tensor = (dot / lengths.clamp_min(TINY)).clamp_min(LEAST_COSINE)
        return dot * cosine.pow(target.power) / value[0, 0].numel()

    return read


CARICATURE: Final = "caricature"
READERS: Final[dict[str, Callable[[Any, str], Read]]] = {
    "class_score": _class,
    "log_probability": _class,
    "neuron": _neuron,
    "channel": _channel,
    "direction": _direction,
    CARICATURE: _caricature,
}
"""By kind of term, given its message and path."""
