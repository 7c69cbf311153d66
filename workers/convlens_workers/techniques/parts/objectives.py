"""Objectives of feature visualisation: scalars of a network, one an image, from a request's targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from convlens import wire
from convlens.errors import InvalidArgument
from convlens.v1 import job_pb2, target_pb2
from convlens_models.manifest import Manifest
from convlens_workers.jobs.techniques.feature_visualisation import layer_of

Read = Callable[[Tensor], Tensor]
"""From the values of a layer (N, C, ...) that of a target for each image, (N)."""


@dataclass(frozen=True)
class Term:
    """A weighted target of an objective.

    Attributes:
        layer: that it is read from.
        weight: of it in the sum.
        read: its value for each image, (N), from the layer's (N, C, ...).
    """

    layer: str
    weight: float
    read: Read


def terms(objective: job_pb2.Objective, manifest: Manifest, field: str) -> list[Term]:
    """The terms of an objective, whose path is `field`."""
    return [
        _term(item, manifest, f"{field}.terms[{position}].target")
        for position, item in enumerate(objective.terms)
    ]


def total(parts: Sequence[Term], values: Mapping[str, Tensor]) -> Tensor:
    """The objective for each image, (N), given the values of its layers."""
    return torch.stack([part.weight * part.read(values[part.layer]) for part in parts]).sum(0)


def _term(item: job_pb2.WeightedTarget, manifest: Manifest, field: str) -> Term:
    kind = item.target.WhichOneof("target") or ""
    read = READERS[kind](getattr(item.target, kind), f"{field}.{kind}")
    return Term(layer_of(item.target, manifest), item.weight, read)


def _class(target: target_pb2.ClassTarget, _field: str) -> Read:
    return lambda value: value[:, target.index]


def _channel(target: target_pb2.ChannelTarget, _field: str) -> Read:
    return lambda value: value[:, target.channel].reshape(len(value), -1).mean(1)


def _neuron(target: target_pb2.Neuron, field: str) -> Read:
    def read(value: Tensor) -> Tensor:
        height, width = (*value.shape[2:], 1, 1)[:2]
        for name, position, extent in (("y", target.y, height), ("x", target.x, width)):
            if position >= extent:  # Only the network tells how large the map is of other sizes than its own.
                allowed = f"between 0 and {extent - 1} in {target.layer} at this size"
                raise InvalidArgument.of(f"{field}.{name}", position, allowed)
        return value.reshape(*value.shape[:2], height, width)[:, target.channel, target.y, target.x]

    return read


def _direction(target: target_pb2.DirectionTarget, field: str) -> Read:
    vector = torch.tensor(wire.from_tensor(target.vector, f"{field}.vector"))
    return lambda value: (
        torch.einsum("c,ncp->n", vector.to(value), value.reshape(*value.shape[:2], -1))
        / (value[0, 0].numel())
    )


READERS: Final[dict[str, Callable[[Any, str], Read]]] = {
    "class_score": _class,
    "log_probability": _class,
    "neuron": _neuron,
    "channel": _channel,
    "direction": _direction,
}
"""By kind of target, given its message and path."""
