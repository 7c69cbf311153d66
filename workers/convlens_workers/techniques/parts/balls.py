"""Balls around images, within which an attack may move. Tensors are (N, 3, H, W); every image has its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

import torch
from torch import Tensor

from convlens.v1 import attack_pb2
from convlens_workers.techniques.parts.loop import own_generator
from convlens_workers.techniques.parts.pixels import symmetric

TINY: Final = 1e-12


class Ball(Protocol):
    """A ball of one norm, with the three operations that attacks need."""

    epsilon: float
    """The usual radius, in units of pixel values in [0, 1]."""

    def direction(self, gradient: Tensor) -> Tensor:
        """The step of length 1 that raises a loss with this gradient most."""

    def project(self, delta: Tensor, epsilon: float) -> Tensor:
        """The point of the ball that is nearest to `delta`."""

    def inside(self, rng: torch.Generator, like: Tensor, epsilon: float) -> Tensor:
        """Points of the ball, uniformly distributed over it."""


class Linf:
    """The L-infinity ball: |delta| <= epsilon in every pixel value."""

    epsilon = 8 / 255

    def direction(self, gradient: Tensor) -> Tensor:
        """The sign of the gradient, sign(g)."""
        return gradient.sign()

    def project(self, delta: Tensor, epsilon: float) -> Tensor:
        """`delta` clipped to [-epsilon, epsilon] value by value."""
        return delta.clamp(-epsilon, epsilon)

    def inside(self, rng: torch.Generator, like: Tensor, epsilon: float) -> Tensor:
        """Changes whose values are each uniform in [-epsilon, epsilon)."""
        return symmetric(rng, *like.shape).to(like) * epsilon


class L2:
    """The L2 ball: ||delta||_2 <= epsilon over all pixel values of an image."""

    epsilon = 0.5

    def direction(self, gradient: Tensor) -> Tensor:
        """The gradient over its length, g / ||g||."""
        return gradient / length(gradient).clamp_min(TINY)

    def project(self, delta: Tensor, epsilon: float) -> Tensor:
        """`delta`, shortened to a length of epsilon where it is longer."""
        return delta * (epsilon / length(delta).clamp_min(TINY)).clamp_max(1)

    def inside(self, rng: torch.Generator, like: Tensor, epsilon: float) -> Tensor:
        """A random direction, as long as u^(1/d) epsilon with u uniform in [0, 1) and d pixel values."""
        share = torch.rand((len(like), 1, 1, 1), generator=rng) ** (1 / max(1, like[0].numel()))
        return (self.direction(torch.randn(like.shape, generator=rng)) * share).to(like) * epsilon


BALLS: Final[Mapping[int, Ball]] = {
    attack_pb2.NORM_UNSPECIFIED: Linf(),
    attack_pb2.NORM_LINF: Linf(),
    attack_pb2.NORM_L2: L2(),
}


def moved(images: Tensor, to: Tensor, ball: Ball, epsilon: float) -> Tensor:
    """`to` brought back into the ball around `images`, and then into [0, 1], which never leaves the ball."""
    return (images + ball.project(to - images, epsilon)).clamp(0, 1)


def inside(ball: Ball, rng: torch.Generator, images: Tensor, epsilon: float, what: str = "start") -> Tensor:
    """A point of the ball for each image, from a generator of its own."""
    some = [images[i : i + 1] for i in range(len(images))]
    return torch.cat(
        [ball.inside(own_generator(rng.initial_seed(), image, what), image, epsilon) for image in some]
    )


def length(values: Tensor) -> Tensor:
    """Euclidean length of each image's values, (N, 1, 1, 1)."""
    lengths: Tensor = torch.linalg.vector_norm(values, dim=(1, 2, 3), keepdim=True)
    return lengths
