"""What is explained or maximised: one number an image."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

import numpy as np

from convlens import wire
from convlens.v1 import job_pb2, target_pb2
from convlens_client.contract import fill
from convlens_client.images import ImageLike, to_image


@dataclass(frozen=True)
class Target:
    """A scalar of the network: `ClassScore` is what the contract calls `class_score`, and so on."""

    def message(self) -> target_pb2.Target:
        """The target as a request carries it."""
        message = target_pb2.Target()
        arm = getattr(message, re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower())
        arm.SetInParent()
        fill(arm, {field.name: getattr(self, field.name) for field in fields(self)})
        return message

    def of(self, model: str) -> Of:
        """The same of another network, "name" or "name/version", in a feature visualisation."""
        return Of(model, self)


@dataclass(frozen=True)
class ClassScore(Target):
    """Logit of a class, by index or name; by default of the class that the model predicts for each image."""

    index: int | str | None = None


@dataclass(frozen=True)
class LogProbability(Target):
    """log P(class) after softmax, or sigmoid of an independent class; the class as for `ClassScore`."""

    index: int | str | None = None


@dataclass(frozen=True)
class Neuron(Target):
    """Value of one unit: channel and position from 0; y and x are 0 where the layer has no spatial axes."""

    layer: str
    channel: int
    y: int = 0
    x: int = 0


@dataclass(frozen=True)
class Channel(Target):
    """Mean of one channel of a layer, counted from 0, over its positions."""

    layer: str
    channel: int


@dataclass(frozen=True)
class Direction(Target):
    """Inner product of a layer's value with a vector, one number a channel, averaged over the positions."""

    layer: str
    vector: tuple[float, ...]

    def message(self) -> target_pb2.Target:
        """The target as a request carries it."""
        vector = wire.to_tensor(np.asarray(self.vector, np.float32))
        return target_pb2.Target(direction=target_pb2.DirectionTarget(layer=self.layer, vector=vector))


@dataclass(frozen=True, eq=False)
class Caricature:
    """What a layer sees in a picture, exaggerated, in a feature visualisation.

    A higher `power` keeps closer to the picture; fields as in `convlens.v1.Caricature`.
    """

    layer: str
    image: ImageLike
    power: float | None = None

    def message(self) -> job_pb2.Caricature:
        """The caricature as a request carries it."""
        image = to_image(self.image, None, "caricature")
        return job_pb2.Caricature(layer=self.layer, image=image, power=self.power)

    def of(self, model: str) -> Of:
        """The same of another network, "name" or "name/version"."""
        return Of(model, self)


@dataclass(frozen=True)
class Of:
    """What is read from another network than the request's: layers and classes are those of `model`."""

    model: str
    what: Target | Caricature
