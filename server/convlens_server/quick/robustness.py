"""The accuracy that an attack leaves, epsilon by epsilon, and alarms that speak against believing it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from convlens.errors import InvalidArgument
from convlens.v1 import attack_pb2
from convlens_models.manifest import LOG_PROBABILITIES
from convlens_models.measures.certificate import AttackGoal
from convlens_server.backends.base import F32, Backend
from convlens_server.techniques import ATTACKS
from convlens_server.techniques.descent import BALLS, drawn, groups, streams

LINF: Final = tuple(step / 255 for step in (0, 0.5, 1, 2, 4, 8, 16, 255))
SATURATED: Final = 1e-30
"""1 - P below which float32, whose smallest number is 1e-38, begins to lose the gradient of log P."""
L2: Final = (0, 0.125, 0.25, 0.5, 1, 2, 4)


def measure(
    backend: Backend, images: F32, request: attack_pb2.MeasureRobustnessRequest
) -> Iterator[attack_pb2.MeasureRobustnessResponse]:
    """One point an epsilon, then the alarms of Athalye et al. 2018, arXiv:1802.00420.

    An image counts as right where the network takes it for its label both as it is and after the attack: the
    worst of the two. Between two points the attack's parameters differ in nothing but epsilon.

    Raises:
        InvalidArgument: labels, but not one for each image; epsilons that do not rise, or exceed the norm.
    """
    name = request.WhichOneof("technique") or ""
    params: Any = getattr(request, name)
    independent = backend.stored.manifest.independent
    goal = AttackGoal(False, _one_each(request.labels, len(images)), independent)
    norm, seed = getattr(params, "norm", attack_pb2.NORM_LINF), getattr(params, "seed", 0)
    ball = BALLS[norm]
    before = _log_probabilities(backend, images)
    clean = ~goal.met(np.exp(before))
    saturated = before[np.arange(len(images)), goal.classes] > -SATURATED  # -log P is 1 - P there.
    points = []
    for epsilon in _series(request.epsilons, norm, ball.diagonal(images)):
        params.epsilon = epsilon
        attacked = ATTACKS[name].compute(backend, images, goal, params)
        noise = drawn(ball.surface, streams(seed, images), images, epsilon)
        blocked = ~attacked.tensors["gradient_sign"].any(axis=(1, 2, 3))
        point = attack_pb2.RobustnessPoint(
            epsilon=epsilon,
            accuracy=float(np.mean(clean & _right(backend, attacked.adversarial, goal))),
            noise_accuracy=float(np.mean(clean & _right(backend, np.clip(images + noise, 0, 1), goal))),
            zero_gradient_share=float(np.mean(blocked)),
        )
        points.append(point)
        yield attack_pb2.MeasureRobustnessResponse(point=point)
    classes = 2 if independent else len(backend.stored.manifest.labels)  # A guess is a class, or yes or no.
    raised = alarms(points, len(images), classes, ball.diagonal(images))
    raised.saturated_gradients = bool(saturated.any())
    yield attack_pb2.MeasureRobustnessResponse(alarms=raised)


def series_length(request: attack_pb2.MeasureRobustnessRequest) -> int:
    """The number of points of a valid request."""
    return len(request.epsilons) or max(len(LINF), len(L2) + 1)


def alarms(
    points: Sequence[attack_pb2.RobustnessPoint], count: int, classes: int, whole_range: float
) -> attack_pb2.RobustnessAlarms:
    """Signs that the accuracies of `count` images mislead; `whole_range` is the epsilon that allows all."""
    rises = np.diff([point.accuracy for point in points])
    last = points[-1]
    guessed = math.ceil(count / classes)
    return attack_pb2.RobustnessAlarms(
        zero_gradients=any(point.zero_gradient_share > 0 for point in points),
        noise_beats_attack=any(point.noise_accuracy < point.accuracy for point in points),
        survives_full_range=last.epsilon >= float(np.float32(whole_range))
        and last.accuracy * count > guessed + 0.5,
        not_monotone=any(rise * count > 1.5 for rise in rises),
    )


def _one_each(labels: Sequence[int], count: int) -> NDArray[np.int64]:
    if len(labels) != count:
        raise InvalidArgument.of("labels", f"{len(labels)} items", f"{count} items, one an image")
    return np.asarray(labels, np.int64)


def _series(epsilons: Sequence[float], norm: int, diagonal: float) -> Sequence[float]:
    if not epsilons:
        return (*L2, diagonal) if norm == attack_pb2.NORM_L2 else LINF
    for position, epsilon in enumerate(epsilons):
        least = epsilons[position - 1] if position else 0
        high = 1000 if norm == attack_pb2.NORM_L2 else 1
        if not least <= epsilon <= high or (position and epsilon == least):
            allowed = f"{'above' if position else 'at least'} {least:g} and at most {high}"
            raise InvalidArgument.of(f"epsilons[{position}]", epsilon, allowed)
    return epsilons


def _right(backend: Backend, images: F32, goal: AttackGoal) -> NDArray[np.bool_]:
    """Whether the network takes each image for its label, (N,)."""
    return ~goal.met(np.exp(_log_probabilities(backend, images)))


def _log_probabilities(backend: Backend, images: F32) -> F32:
    """The log-probabilities of all classes, (N, classes)."""
    values = [
        backend.forward(images[group], [LOG_PROBABILITIES])[LOG_PROBABILITIES] for group in groups(images)
    ]
    return np.concatenate(values)
