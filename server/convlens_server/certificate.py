"""What an attack really did: measured on the picture that a file would hold, not assumed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from convlens import wire
from convlens.v1 import attack_pb2
from convlens_models.manifest import PROBABILITIES
from convlens_server.engines.base import F32, Engine
from convlens_server.targets import Goal
from convlens_server.techniques.classify import prediction


def certify(
    engine: Engine, original: F32, adversarial: F32, goal: Goal, *, before: F32, queries: int
) -> list[attack_pb2.Certificate]:
    """One certificate an image: norms of the change, predictions, and whether the goal is met.

    Everything is measured twice: in floating point, and after the round trip of `through_png`.

    Args:
        original, adversarial: (N, 3, H, W) in [0, 1].
        before: probabilities of `original`, (N, classes).
        queries: forward and gradient passes that the attack spent on each image.
    """
    encoded = through_png(adversarial)
    labels = engine.stored.manifest.labels
    after = engine.forward(adversarial, [PROBABILITIES])[PROBABILITIES]
    after_encoding = engine.forward(encoded, [PROBABILITIES])[PROBABILITIES]
    met, met_after_encoding = goal.met(after.argmax(axis=1)), goal.met(after_encoding.argmax(axis=1))
    return [
        attack_pb2.Certificate(
            linf=_linf(original[i], adversarial[i]),
            l2=float(np.linalg.norm((adversarial[i].astype(np.float64) - original[i]).ravel())),
            before=prediction(before[i], labels),
            after=prediction(after[i], labels),
            after_encoding=prediction(after_encoding[i], labels),
            success=bool(met[i]),
            success_after_encoding=bool(met_after_encoding[i]),
            queries=queries,
            linf_after_encoding=_linf(original[i], encoded[i]),
        )
        for i in range(len(original))
    ]


def through_png(images: F32) -> F32:
    """The images rounded to 8 bits, encoded as PNG, decoded, and scaled to [0, 1] again."""
    decoded: Sequence[NDArray[np.uint8]] = [wire.decode_image(wire.encode_image(image)) for image in images]
    return np.stack([pixels.transpose(2, 0, 1) for pixels in decoded]).astype(np.float32) / np.float32(255)


def _linf(a: F32, b: F32) -> float:
    return float(np.abs(b.astype(np.float64) - a).max())
