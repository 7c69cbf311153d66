"""The loop of attributions that are sums over perturbed copies of an image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np

from convlens_models.attributions.perturbed_batches import batches
from convlens_models.attributions.targets import Target
from convlens_models.backend import F32, F64, Backend

Totals = Mapping[str, F64]
"""What is summed, by name; nothing alters them in place."""
FORWARD: Final = 1
BOTH_WAYS: Final = 3
"""The way back through a network is about twice the way there."""


class Attributed(NamedTuple):
    """The result of an attribution: maps of how the pixels count for a target.

    Attributes:
        values: the target's value for each image, (N,).
        attribution: the map of each image, (N, 3, H, W) or (N, 1, H, W); its technique tells the unit.
        residuals: the sum of each map minus what it should be, (N,), where that is known.
    """

    values: F32
    attribution: F32
    residuals: F32 | None = None


class Perturbation(ABC):
    """The map of one image, from sums over its copies; they go through the network in order, in batches.

    Attributes:
        way: what a copy costs, in passes forward.
        extra: passes that an image takes beside.
        grows: the parameter that makes the copies more.
        sensitivity: whether the map's signs say in which direction a pixel counts, rather than whether.
        rules: raise InvalidArgument, given the parameters and a height and width.
    """

    way: ClassVar[int]
    extra: ClassVar[int] = 1
    grows: ClassVar[str]
    sensitivity: ClassVar[bool] = False
    rules: ClassVar[tuple[Callable[[Any, tuple[int, int]], None], ...]] = ()

    def __init__(self, backend: Backend, image: F32, target: Target, params: Any) -> None:
        """Args: the network, the image (3, H, W) in [0, 1], its target, the technique's validated message."""
        self.backend, self.image, self.target, self.params = backend, image, target, params

    @classmethod
    def check(cls, params: Any, size: tuple[int, int]) -> None:
        """Raise InvalidArgument, which names a field, where the parameters do not fit images of a size."""
        for rule in cls.rules:
            rule(params, size)

    @staticmethod
    @abstractmethod
    def copies(params: Any, size: tuple[int, int]) -> int:
        """The number of copies of an image of a height and width."""

    @abstractmethod
    def empty(self) -> Totals:
        """The totals over no copy."""

    @abstractmethod
    def more(self, totals: Totals, part: slice, rng: np.random.Generator) -> Totals:
        """The totals with the copies at a range of positions; `rng` has drawn all copies before them."""

    @abstractmethod
    def map(self, totals: Totals) -> F64:
        """What the totals over all copies come to, (H, W) or (3, H, W)."""

    @classmethod
    @abstractmethod
    def finish(cls, backend: Backend, images: F32, target: Target, maps: F64, params: Any) -> Attributed:
        """The result for images (N, 3, H, W), from the `map` of each."""

    @classmethod
    def parts(cls, params: Any, size: tuple[int, int]) -> list[slice]:
        """The batches in which the copies go through the network."""
        return list(batches(cls.copies(params, size), size[0] * size[1]))

    @classmethod
    def generator(cls, params: Any) -> np.random.Generator:
        """What the copies are drawn with, from the first on: each image sees what it would see alone."""
        return np.random.default_rng(getattr(params, "seed", 0))


def compute(kind: type[Perturbation]) -> Callable[[Backend, F32, Target, Any], Attributed]:
    """The quick technique that goes through the whole loop at once."""

    def technique(backend: Backend, images: F32, target: Target, params: Any) -> Attributed:
        size = images.shape[2], images.shape[3]
        kind.check(params, size)
        parts = kind.parts(params, size)
        maps = []
        for i, image in enumerate(images):
            one, rng = kind(backend, image, target.of(i), params), kind.generator(params)
            totals = one.empty()
            for part in parts:
                totals = one.more(totals, part, rng)
            maps.append(one.map(totals))
        return kind.finish(backend, images, target, np.stack(maps), params)

    return technique
