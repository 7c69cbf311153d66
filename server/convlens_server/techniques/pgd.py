"""Projected gradient descent from random starts.

Madry, Makelov, Schmidt, Tsipras, Vladu: Towards deep learning models resistant to adversarial attacks (2018),
arXiv:1706.06083.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from convlens.errors import InvalidArgument
from convlens.v1 import attack_pb2
from convlens_models.manifest import LOG_PROBABILITIES
from convlens_server.techniques.base import F32, Attacked, AttackGoal, Backend
from convlens_server.techniques.descent import BALLS, descend, drawn, streams

EPSILON: Final[Mapping[int, float]] = {
    attack_pb2.NORM_UNSPECIFIED: 8 / 255,
    attack_pb2.NORM_LINF: 8 / 255,
    attack_pb2.NORM_L2: 0.5,
}


def pgd(backend: Backend, images: F32, goal: AttackGoal, params: attack_pb2.Pgd) -> Attacked:
    """`descend` from a random point of the ball, or from the image; the best of all starts for each image.

    The best is one that meets the goal; among equals the one with the largest cross entropy of the class that
    is left, or the smallest of the class that is sought. `tensors` has "gradient_sign", at the first start.

    Each image draws its starts from a stream of its own, which follows from the seed and its pixels alone.

    Raises:
        InvalidArgument: an epsilon above 1 for L-infinity, which would be 8 meant as 8/255; several
            starts that are all the image.
    """
    if params.start_at_image and params.restarts > 1:
        raise InvalidArgument.of("pgd.restarts", params.restarts, "1 with start_at_image")
    epsilon, ball = radius(params), BALLS[params.norm]
    step_size = params.step_size if params.HasField("step_size") else epsilon / 4
    random = streams(params.seed, images)

    def attempt() -> tuple[F32, F32]:
        noise = 0 if params.start_at_image else drawn(ball.inside, random, images, epsilon)
        start = np.clip(images + noise, 0, 1)
        return descend(
            backend, images, start, goal, ball, epsilon=epsilon, step_size=step_size, steps=params.steps
        )

    best, first = attempt()
    queries = params.steps
    if params.restarts > 1:
        rank = _rank(backend, best, goal)
        for _ in range(params.restarts - 1):
            other, _ = attempt()
            other_rank = _rank(backend, other, goal)
            better = other_rank > rank
            best[better], rank[better] = other[better], other_rank[better]
        queries = params.restarts * (params.steps + 1)
    return Attacked(best, {"gradient_sign": np.sign(first)}, queries)


def radius(params: attack_pb2.Pgd) -> float:
    """The epsilon of the request, or the norm's own default."""
    epsilon = params.epsilon if params.HasField("epsilon") else EPSILON[params.norm]
    if params.norm != attack_pb2.NORM_L2 and epsilon > 1:
        allowed = "between 0 and 1 for L-infinity, as pixel values are"
        raise InvalidArgument.of("pgd.epsilon", epsilon, allowed)
    return epsilon


def _rank(backend: Backend, images: F32, goal: AttackGoal) -> NDArray[np.float64]:
    """The nearness of each image to the goal, (N,): images that meet it first, then by cross entropy."""
    log_probabilities = backend.forward(images, [LOG_PROBABILITIES])[LOG_PROBABILITIES]
    towards = 1 if goal.targeted else -1
    nearness = towards * log_probabilities[np.arange(len(images)), goal.classes].astype(np.float64)
    return np.asarray(nearness + 1e6 * goal.met(np.exp(log_probabilities)))
