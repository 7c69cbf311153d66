"""The signature of a quick technique, with all the types that it speaks of, and the results.

Every arm of a `technique` oneof is a function `(backend, images, target, params) -> result`: the loaded
network, the images float32 (N, 3, H, W) in [0, 1], the resolved target or attack goal, and the technique's
validated message. It computes and returns; the service decodes images, keeps the limits, streams the results
and stops what nobody waits for any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

from convlens_models.attributions.perturbation import BOTH_WAYS, Attributed
from convlens_models.attributions.targets import Target
from convlens_models.measures.certificate import AttackGoal
from convlens_server.backends.base import F32, F64, Backend

__all__ = [
    "BOTH_WAYS",
    "F32",
    "F64",
    "Attack",
    "AttackGoal",
    "Attacked",
    "Attributed",
    "Attribution",
    "Backend",
    "Cost",
    "Target",
    "Technique",
]

TargetT_contra = TypeVar("TargetT_contra", contravariant=True)
ResultT_co = TypeVar("ResultT_co", covariant=True)


class Technique(Protocol[TargetT_contra, ResultT_co]):
    """One quick technique; its file is named after its arm of the oneof."""

    def __call__(self, backend: Backend, images: F32, target: TargetT_contra, params: Any, /) -> ResultT_co:
        """Compute the result. Raises InvalidArgument for what only the network itself can tell."""


class Attacked(NamedTuple):
    """The result of an attack: perturbed images.

    Attributes:
        adversarial: the perturbed images, (N, 3, H, W) in [0, 1].
        tensors: other tensors that the reply shows, by name.
        queries: the number of forward and gradient passes spent on each image.
    """

    adversarial: F32
    tensors: Mapping[str, F32]
    queries: int


class Cost(NamedTuple):
    """What a technique costs an image.

    Attributes:
        passes: gives the forward passes of its size that its valid parameters and its height and width make;
            one there and back counts as `BOTH_WAYS`.
        grows: the parameter that makes them more, if there is one.
    """

    passes: Callable[[Any, tuple[int, int]], float]
    grows: str = ""


class Attribution(NamedTuple):
    """A row of the table of attributions.

    Attributes:
        compute: the technique.
        cost: what it costs.
        sensitivity: whether the map's signs say in which direction a pixel counts, rather than whether.
    """

    compute: Technique[Target, Attributed]
    cost: Cost
    sensitivity: bool = False


class Attack(NamedTuple):
    """A row of the table of attacks: the technique, and what it costs."""

    compute: Technique[AttackGoal, Attacked]
    cost: Cost
