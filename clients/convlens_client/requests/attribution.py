"""What in an image a network responds to: targets and techniques."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from google.protobuf.message import Message

from convlens import wire
from convlens.errors import InvalidArgument
from convlens.v1 import attribution_pb2, attribution_pb2_grpc, target_pb2
from convlens_client.calls import Call, Method, Tensors
from convlens_client.images import Images, ResizeLike, to_images
from convlens_client.requests.model import model_ref
from convlens_client.results import Array, Attribution

_Attribution = attribution_pb2_grpc.AttributionServiceStub

Technique = Literal["gradient", "guided_backprop", "deconvnet"]
TECHNIQUES: dict[str, Message] = {
    "gradient": attribution_pb2.Gradient(),
    "guided_backprop": attribution_pb2.GuidedBackprop(),
    "deconvnet": attribution_pb2.Deconvnet(),
}


@dataclass(frozen=True, slots=True)
class ClassScore:
    """Logit of a class; by default of the class that the model predicts for each image."""

    index: int | None = None

    def message(self) -> target_pb2.Target:
        """As the request carries it."""
        return target_pb2.Target(class_score=target_pb2.ClassTarget(index=self.index))


@dataclass(frozen=True, slots=True)
class LogProbability:
    """log P(class) after the softmax; by default of the class that the model predicts for each image."""

    index: int | None = None

    def message(self) -> target_pb2.Target:
        """As the request carries it."""
        return target_pb2.Target(log_probability=target_pb2.ClassTarget(index=self.index))


@dataclass(frozen=True, slots=True)
class Neuron:
    """Value of one unit: channel and position from 0; y and x are 0 where the layer has no spatial axes."""

    layer: str
    channel: int
    y: int = 0
    x: int = 0

    def message(self) -> target_pb2.Target:
        """As the request carries it."""
        return target_pb2.Target(
            neuron=target_pb2.Neuron(layer=self.layer, channel=self.channel, y=self.y, x=self.x)
        )


@dataclass(frozen=True, slots=True)
class Channel:
    """Mean of one channel of a layer, counted from 0, over its positions."""

    layer: str
    channel: int

    def message(self) -> target_pb2.Target:
        """As the request carries it."""
        return target_pb2.Target(channel=target_pb2.ChannelTarget(layer=self.layer, channel=self.channel))


@dataclass(frozen=True, slots=True)
class Direction:
    """Inner product of a layer's value with a vector, one number a channel, averaged over the positions."""

    layer: str
    vector: tuple[float, ...]

    def message(self) -> target_pb2.Target:
        """As the request carries it."""
        vector = wire.to_tensor(np.asarray(self.vector, np.float32))
        return target_pb2.Target(direction=target_pb2.DirectionTarget(layer=self.layer, vector=vector))


Target = ClassScore | LogProbability | Neuron | Channel | Direction


def attribute(
    images: Images,
    technique: Technique = "gradient",
    target: Target | None = None,
    *,
    model: str = "",
    resize: ResizeLike | None = None,
) -> Call[Attribution]:
    """A target attributed to the pixels by one technique; the score of the predicted class by default."""
    request = _attribute_request(images, [(technique, target or ClassScore())], model, resize)
    return Tensors(
        Method(_Attribution, "Attribute"), request, lambda head, tensors: _attributions(head, tensors)[0]
    )


def attribute_all(
    images: Images,
    attributions: Sequence[tuple[Technique, Target]],
    *,
    model: str = "",
    resize: ResizeLike | None = None,
) -> Call[tuple[Attribution, ...]]:
    """Several attributions of the same images in one call, in the order asked."""
    request = _attribute_request(images, attributions, model, resize)
    return Tensors(Method(_Attribution, "Attribute"), request, _attributions)


def _attribute_request(
    images: Images, asked: Sequence[tuple[str, Target]], model: str, resize: ResizeLike | None
) -> attribution_pb2.AttributeRequest:
    request = attribution_pb2.AttributeRequest(model=model_ref(model), images=to_images(images, resize))
    for technique, target in asked:
        if technique not in TECHNIQUES:
            raise InvalidArgument.of("technique", technique, f"one of {', '.join(TECHNIQUES)}")
        item = request.attributions.add(target=target.message())
        getattr(item, technique).CopyFrom(TECHNIQUES[technique])
    return request


def _attributions(head: Any, tensors: dict[str, Array]) -> tuple[Attribution, ...]:
    return tuple(
        Attribution(tuple(target.values), tuple(target.class_indices), array)
        for target, array in zip(head.targets, tensors.values(), strict=True)
    )
