"""What an attack really did: measured on the picture that a file would hold, not assumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from convlens import wire
from convlens.v1 import attack_pb2, target_pb2

F32 = NDArray[np.float32]
HALF: Final = 0.5
"""The probability above which a picture is taken to be of a class that is independent of others."""


@dataclass(frozen=True)
class AttackGoal:
    """What an attack wants: every image taken for its class (targeted), or no longer taken for it.

    An image is taken for its most probable class. Where classes are `independent`, it is taken for each whose
    probability is above one half.
    """

    targeted: bool
    classes: NDArray[np.int64]
    independent: bool = False

    def met(self, probabilities: F32) -> NDArray[np.bool_]:
        """Whether the goal is met for each image, given the probabilities of all classes (N, classes)."""
        own = probabilities[np.arange(len(self.classes)), self.classes]
        taken: NDArray[np.bool_] = (
            own > HALF if self.independent else probabilities.argmax(axis=1) == self.classes
        )
        return taken if self.targeted else ~taken


def certify(
    probabilities: Callable[[F32], F32],
    labels: Sequence[str],
    original: F32,
    adversarial: F32,
    goal: AttackGoal,
    *,
    before: F32,
    queries: int | Sequence[int],
) -> list[attack_pb2.Certificate]:
    """One certificate an image: norms of the change, predictions, and whether the goal is met.

    The predictions are the most probable classes; where classes are independent, the goal's.

    Everything is measured twice: in floating point, and after the round trip of `through_png`.

    Args:
        probabilities: of each class, (N, classes), for images (N, 3, H, W) in [0, 1].
        labels: names of the classes.
        original, adversarial: (N, 3, H, W) in [0, 1].
        before: probabilities of `original`, (N, classes).
        queries: forward and gradient passes that the attack spent on each image.
    """
    encoded = through_png(adversarial)
    after, after_encoding = probabilities(adversarial), probabilities(encoded)
    met_before, met, met_after_encoding = (goal.met(values) for values in (before, after, after_encoding))
    told = goal.classes.tolist() if goal.independent else [None] * len(original)
    spent = np.broadcast_to(queries, len(original)).tolist()
    return [
        attack_pb2.Certificate(
            linf=_linf(original[i], adversarial[i]),
            l2=float(np.linalg.norm((adversarial[i].astype(np.float64) - original[i]).ravel())),
            before=prediction(before[i], labels, told[i]),
            after=prediction(after[i], labels, told[i]),
            after_encoding=prediction(after_encoding[i], labels, told[i]),
            success=bool(met[i]),
            success_after_encoding=bool(met_after_encoding[i]),
            queries=spent[i],
            linf_after_encoding=_linf(original[i], encoded[i]),
            met_before=bool(met_before[i]),
        )
        for i in range(len(original))
    ]


def prediction(probabilities: F32, labels: Sequence[str], index: int | None = None) -> target_pb2.Prediction:
    """One class with its probability; by default the most probable one of `probabilities` (classes,)."""
    index = int(probabilities.argmax()) if index is None else index
    return target_pb2.Prediction(index=index, label=labels[index], probability=float(probabilities[index]))


def through_png(images: F32) -> F32:
    """The images rounded to 8 bits, encoded as PNG, decoded, and scaled to [0, 1] again."""
    decoded: Sequence[NDArray[np.uint8]] = [wire.decode_image(wire.encode_image(image)) for image in images]
    return np.stack([pixels.transpose(2, 0, 1) for pixels in decoded]).astype(np.float32) / np.float32(255)


def _linf(a: F32, b: F32) -> float:
    return float(np.abs(b.astype(np.float64) - a).max())
