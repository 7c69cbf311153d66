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
from convlens_models.manifest import LOG_PROBABILITIES, Manifest


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
    read: Callable[[Tensor], Tensor]


def terms(objective: job_pb2.Objective, manifest: Manifest, field: str) -> list[Term]:
    """The terms of an objective.

    Raises:
        InvalidArgument: a target that the model does not have; `field` is the objective's path.
    """
    return [
        _term(item, manifest, f"{field}.terms[{position}].target")
        for position, item in enumerate(objective.terms)
    ]


def total(parts: Sequence[Term], values: Mapping[str, Tensor]) -> Tensor:
    """The objective for each image, (N), given the values of its layers."""
    return torch.stack([part.weight * part.read(values[part.layer]) for part in parts]).sum(0)


def _term(item: job_pb2.WeightedTarget, manifest: Manifest, field: str) -> Term:
    kind = item.target.WhichOneof("target") or ""
    wanted = getattr(item.target, kind)
    layer = {"class_score": manifest.output, "log_probability": LOG_PROBABILITIES}.get(kind) or wanted.layer
    shape = manifest.layer(layer, f"{field}.{kind}.layer").shape
    return Term(layer, item.weight, READERS[kind](wanted, shape, f"{field}.{kind}"))


def _class(wanted: target_pb2.ClassTarget, _shape: Sequence[int], field: str) -> Callable[[Tensor], Tensor]:
    if not wanted.HasField("index"):
        raise InvalidArgument.of(f"{field}.index", "nothing", "given: there is no picture to predict it from")
    return lambda value: value[:, wanted.index]


def _channel(
    wanted: target_pb2.ChannelTarget, shape: Sequence[int], field: str
) -> Callable[[Tensor], Tensor]:
    _check(wanted.channel, shape[0], f"{field}.channel", wanted.layer)
    return lambda value: value[:, wanted.channel].reshape(len(value), -1).mean(1)


def _neuron(wanted: target_pb2.Neuron, shape: Sequence[int], field: str) -> Callable[[Tensor], Tensor]:
    _check(wanted.channel, shape[0], f"{field}.channel", wanted.layer)

    def read(value: Tensor) -> Tensor:
        height, width = (*value.shape[2:], 1, 1)[:2]
        _check(wanted.y, height, f"{field}.y", wanted.layer)
        _check(wanted.x, width, f"{field}.x", wanted.layer)
        return value.reshape(*value.shape[:2], height, width)[:, wanted.channel, wanted.y, wanted.x]

    return read


def _direction(
    wanted: target_pb2.DirectionTarget, shape: Sequence[int], field: str
) -> Callable[[Tensor], Tensor]:
    vector = torch.tensor(wire.from_tensor(wanted.vector, f"{field}.vector"))
    allowed = f"float32 of shape [{shape[0]}], finite and not all 0"
    if vector.dtype != torch.float32 or vector.shape != (shape[0],):
        raise InvalidArgument.of(f"{field}.vector", f"{vector.dtype} of shape {list(vector.shape)}", allowed)
    if not vector.isfinite().all() or not vector.any():
        raise InvalidArgument.of(f"{field}.vector", "other numbers", allowed)
    return lambda value: (
        torch.einsum("c,ncp->n", vector.to(value), value.reshape(*value.shape[:2], -1))
        / (value[0, 0].numel())
    )


def _check(position: int, extent: int, field: str, layer: str) -> None:
    if position >= extent:
        raise InvalidArgument.of(field, position, f"between 0 and {extent - 1} in {layer} at this size")


READERS: Final[dict[str, Callable[[Any, Sequence[int], str], Callable[[Tensor], Tensor]]]] = {
    "class_score": _class,
    "log_probability": _class,
    "neuron": _neuron,
    "channel": _channel,
    "direction": _direction,
}
