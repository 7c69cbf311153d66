"""The signature of a quick technique, and what comes back.

Every arm of a `technique` oneof is a function `(backend, images, target, params) -> result`: the loaded
network, the images float32 (N, 3, H, W) in [0, 1], the resolved target or attack goal, and the technique's
validated message. It computes and returns; decoding, limits, streaming, and leaving callers are not its
business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

from convlens_models.measures.certificate import AttackGoal
from convlens_server.backends.base import F32, Backend
from convlens_server.quick.targets import Target

AimT_contra = TypeVar("AimT_contra", contravariant=True)
ResultT_co = TypeVar("ResultT_co", covariant=True)


class Technique(Protocol[AimT_contra, ResultT_co]):
    """One quick technique; its file is named after its arm of the oneof."""

    def __call__(self, backend: Backend, images: F32, target: AimT_contra, params: Any, /) -> ResultT_co:
        """Compute. Raises InvalidArgument for what only the network itself can tell."""


class Attributed(NamedTuple):
    """A target attributed to the pixels.

    Attributes:
        values: the target's value for each image, (N,).
        attribution: (N, 3, H, W) or (N, 1, H, W); what it measures the technique says.
        residuals: sum of the attribution minus what it should be, (N,), where that is known.
    """

    values: F32
    attribution: F32
    residuals: F32 | None = None


class Attacked(NamedTuple):
    """Perturbed images.

    Attributes:
        adversarial: (N, 3, H, W) in [0, 1].
        tensors: what else the reply shows, by name.
        queries: forward and gradient passes spent on each image.
    """

    adversarial: F32
    tensors: Mapping[str, F32]
    queries: int


Attribution = Technique[Target, Attributed]
Attack = Technique[AttackGoal, Attacked]
