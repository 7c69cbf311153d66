"""What is explained or maximised: one number an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from convlens import wire
from convlens.v1 import target_pb2


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
