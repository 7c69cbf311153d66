"""The loop that iterated attacks share: a step along the gradient, then back into the ball; and the balls."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from convlens.v1 import attack_pb2
from convlens_models.attributions.targets import one_hot
from convlens_models.graphs.autodiff import ReluRule
from convlens_models.manifest import LOG_PROBABILITIES
from convlens_models.measures.certificate import AttackGoal
from convlens_models.measures.seeds import own_seed
from convlens_server.backends.base import F32, Backend

GROUP_PIXELS: Final = 800_000
"""The pixels of one gradient pass, which bound the memory of an attack, whatever the batch."""
TINY: Final = np.float32(1e-12)


class Linf:
    """The ball |delta| <= epsilon in every pixel value, one for each image of an array (N, 3, H, W)."""

    def direction(self, gradient: F32) -> F32:
        """The step of length 1 that raises a loss with this gradient most: sign(g)."""
        return np.sign(gradient)

    def project(self, delta: F32, epsilon: float) -> F32:
        """The nearest point of the ball: clipped value by value."""
        return np.clip(delta, -np.float32(epsilon), np.float32(epsilon))

    def inside(self, random: np.random.Generator, like: F32, epsilon: float) -> F32:
        """Points uniformly distributed over the ball: each value uniform in [-epsilon, epsilon)."""
        return np.asarray((random.random(like.shape, np.float32) * 2 - 1) * np.float32(epsilon))

    def surface(self, random: np.random.Generator, like: F32, epsilon: float) -> F32:
        """Noise of length epsilon: random signs."""
        return np.asarray(np.copysign(np.float32(epsilon), random.random(like.shape, np.float32) - 0.5))

    def diagonal(self, images: F32) -> float:
        """The radius that reaches all pictures there are: 1."""
        return 1.0


class L2:
    """The ball ||delta||_2 <= epsilon over all pixel values of an image, one for each of an array."""

    def direction(self, gradient: F32) -> F32:
        """The step of length 1 that raises a loss with this gradient most: g / ||g||."""
        return np.asarray(gradient / np.maximum(_length(gradient), TINY))

    def project(self, delta: F32, epsilon: float) -> F32:
        """The nearest point of the ball: shortened to epsilon where longer."""
        shorter: F32 = np.minimum(np.float32(1), np.float32(epsilon) / np.maximum(_length(delta), TINY))
        return np.asarray(delta * shorter)

    def inside(self, random: np.random.Generator, like: F32, epsilon: float) -> F32:
        """Points uniformly distributed over the ball: u^(1/d) epsilon long, u in [0, 1), d pixel values."""
        share = random.random((len(like), 1, 1, 1)) ** (1 / like[0].size)
        return np.asarray(self.surface(random, like, epsilon) * share.astype(np.float32))

    def surface(self, random: np.random.Generator, like: F32, epsilon: float) -> F32:
        """Noise of length epsilon: a random direction."""
        return self.direction(random.standard_normal(like.shape, np.float32)) * np.float32(epsilon)

    def diagonal(self, images: F32) -> float:
        """The radius that reaches all pictures there are: sqrt(d) for d pixel values."""
        return math.sqrt(images[0].size)


Ball = Linf | L2
BALLS: Final[Mapping[int, Ball]] = {
    attack_pb2.NORM_UNSPECIFIED: Linf(),
    attack_pb2.NORM_LINF: Linf(),
    attack_pb2.NORM_L2: L2(),
}


def streams(seed: int, images: F32) -> list[np.random.Generator]:
    """A random stream an image, of the seed and the SHA-256 of its pixels: alone or in a batch, the same."""
    return [np.random.default_rng(own_seed(seed, image.astype("<f4").tobytes())) for image in images]


def drawn(
    draw: Callable[[np.random.Generator, F32, float], F32],
    random: Sequence[np.random.Generator],
    images: F32,
    epsilon: float,
) -> F32:
    """What `draw`, a ball's `inside` or `surface`, gives for each image from its own stream."""
    return np.concatenate([draw(own, images[i : i + 1], epsilon) for i, own in enumerate(random)])


def descend(
    backend: Backend,
    images: F32,
    start: F32,
    goal: AttackGoal,
    ball: Ball,
    *,
    epsilon: float,
    step_size: float,
    steps: int,
) -> tuple[F32, F32]:
    """x <- clip(x0 + P(x + a direction(g) - x0), 0, 1), `steps` times; targeted: minus a.

    Projected gradient descent, P onto the ball around x0 (Madry et al. 2018, arXiv:1706.06083). Every image
    takes all steps, also those that have met the goal, so that an image's result does not depend on others.

    Args:
        images: x0, (N, 3, H, W) in [0, 1].
        start: the first x, in the ball and in [0, 1].

    Returns:
        The last x, and the gradient g at the first.
    """
    current, first = start, np.zeros_like(images)
    length = np.float32(-step_size if goal.targeted else step_size)
    for step in range(steps):
        gradient = loss_gradient(backend, current, goal)
        first = first if step else gradient
        moved = current + length * ball.direction(gradient)
        current = np.clip(images + ball.project(moved - images, epsilon), 0, 1)
    return current, first


def loss_gradient(backend: Backend, images: F32, goal: AttackGoal) -> F32:
    """dCE/dx for the goal's classes; CE = -log P(class), so the cotangent is -1 at its log-probability."""
    cotangent = -one_hot(goal.classes, len(backend.stored.manifest.labels))
    passes = [
        backend.gradient(images[group], LOG_PROBABILITIES, cotangent[group], ReluRule.GRADIENT)
        for group in groups(images)
    ]
    return np.concatenate([gradient for _, gradient in passes])


def groups(images: F32) -> Iterator[slice]:
    """Ranges of the images that one pass takes each, of at most `GROUP_PIXELS` pixels."""
    size = max(1, GROUP_PIXELS // images[0, 0].size)
    return (slice(start, start + size) for start in range(0, len(images), size))


def _length(values: F32) -> F32:
    """Euclidean length of each image's values, (N, 1, 1, 1)."""
    flat = values.reshape(len(values), -1)
    return np.asarray(np.linalg.norm(flat, axis=1), np.float32).reshape(-1, 1, 1, 1)
