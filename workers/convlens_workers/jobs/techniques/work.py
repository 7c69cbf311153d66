"""The work of a long technique, stated before it begins: passes through networks at sizes, step by step.

What a job costs, how many steps it has, and how much of it is left at each of them follow from one statement.
What depends on how a job goes (line searches, early stops) is stated as what is to be expected.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Final

from convlens_models.graphs import layers as graph_layers
from convlens_models.graphs.surgery import cut
from convlens_models.manifest import ONNX, Manifest
from convlens_models.repository import ModelRepository, StoredModel
from convlens_workers.jobs.pictures import Size

FORWARD: Final = 1
GRADIENT: Final = 2
"""There and back: the way back to the picture alone takes as many multiply-adds as the way there."""
TRAINING: Final = 3
"""The way back to the weights takes as many again."""
LINE_SEARCH: Final = 1.1
"""Evaluations that a step of L-BFGS is expected to take."""
FIRST_SEARCH: Final = 3.5
"""Evaluations that the first step of a picture is expected to take beside."""
CAMERA: Final = 500.0
"""About how many multiply-adds a pixel it takes as long as to show a picture in another pose and light."""
JPEG: Final = 1500.0
"""The same for a picture that is encoded and decoded."""
READING: Final = 5e8
"""About how many multiply-adds it takes as long as to read a photo of a collection or a folder."""
EIGEN: Final = 4
"""Multiply-adds over C^3 of the eigenvalues of a matrix of C rows, and of their gradient."""


@dataclass(frozen=True)
class Pass:
    """Pictures of one size that go through a network, at once or one after the other.

    Attributes:
        size: height and width.
        pictures: their number; a fraction is an expectation.
        way: FORWARD, GRADIENT or TRAINING.
        layers: the network runs until it knows these; None: to its end.
        network: None: the job's own; a number: its multiply-adds a pixel, where it is no stored network.
    """

    size: Size
    pictures: float = 1.0
    way: int = GRADIENT
    layers: tuple[str, ...] | None = None
    network: Manifest | float | None = None


@dataclass(frozen=True)
class Steps:
    """Steps of a job that are alike.

    Attributes:
        count: their number, as the job tells it; with none there is only `before`.
        passes: of each of them.
        before: once, before the first of them.
    """

    count: int
    passes: tuple[Pass, ...] = ()
    before: tuple[Pass, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """What a job costs in multiply-adds, in all and from any of its steps on.

    Attributes:
        work: all its steps, in order.
        manifest: of its own network.
        repository: that all its networks are in.
    """

    work: Sequence[Steps]
    manifest: Manifest
    repository: ModelRepository

    @property
    def steps(self) -> int:
        """The number of all steps."""
        return sum(part.count for part in self.work)

    @property
    def cost(self) -> float:
        """Of the whole job; 0 where nothing is known of its work."""
        return self._costs[-1]

    def until(self, step: int) -> float:
        """The cost of the steps up to `step`, that included, and of what comes before each of them.

        Where the steps were not all known, those that are one too many cost as much as the others on average.
        """
        if not self.steps or step > self.steps:
            return step * (self.cost / self.steps if self.steps else 1.0)
        place = bisect_right(self._ends, step) - 1
        if place >= len(self.work):
            return self.cost
        inside = step - self._ends[place]
        part = self.work[place]
        return self._costs[place] + (self._sum(part.before) + inside * self._sum(part.passes)) * (inside > 0)

    def beyond(self, shorter: Estimate) -> float:
        """The cost of the steps that a job still has to do where one of `shorter` has ended.

        These are the steps that its last part has more: parts that are through count as done.
        """
        (more,), (less,) = ([part.count for part in each.work if part.count][-1:] for each in (self, shorter))
        return self.cost - self.until(self.steps - max(0, more - less))

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate((part.count for part in self.work), initial=0))

    @cached_property
    def _costs(self) -> list[float]:
        each = (self._sum(part.before) + part.count * self._sum(part.passes) for part in self.work)
        return list(accumulate(each, initial=0.0))

    def _sum(self, passes: Iterable[Pass]) -> float:
        return sum(map(self._multiply_adds, passes))

    def _multiply_adds(self, passed: Pass) -> float:
        height, width = passed.size
        network, way = passed.network, passed.way
        if isinstance(network, (int, float)):
            return passed.pictures * way * network * height * width
        manifest = network or self.manifest
        again = manifest.architecture == ONNX and way == GRADIENT  # Its gradient's graph computes all anew.
        stored = self.repository.get(manifest.name, manifest.version)
        a_pixel, beside = _of_a_picture(_Cut(manifest.digest, passed.layers, stored))
        return passed.pictures * (way + again) * (a_pixel * height * width + beside)


@dataclass(frozen=True)
class _Cut:
    """A network up to some layers."""

    digest: str
    layers: tuple[str, ...] | None
    stored: StoredModel = field(compare=False)


@lru_cache(maxsize=256)
def _of_a_picture(network: _Cut) -> tuple[float, float]:
    """Multiply-adds a pixel, and those of linear layers, which do not depend on the size."""
    manifest, graph = network.stored.manifest, network.stored.forward()
    if network.layers is not None:
        graph = cut(graph, [manifest.layer(name).tensor for name in dict.fromkeys(network.layers)])
    maps, linear = graph_layers.multiply_adds_by_kind(graph, manifest.input_size)
    return maps / manifest.input_size**2, linear


def gram_cost(layers: Iterable[str], manifest: Manifest) -> float:
    """Multiply-adds a pixel of the Gram matrices of layers with positions."""
    shapes = (manifest.layer(name).shape for name in layers)
    return sum(shape[0] ** 2 * shape[1] * shape[2] for shape in shapes) / manifest.input_size**2


def eigen_cost(layers: Iterable[str], manifest: Manifest) -> float:
    """Multiply-adds of the eigenvalues of matrices with as many rows as each layer has channels."""
    return float(EIGEN * sum(manifest.layer(name).shape[0] ** 3 for name in layers))
