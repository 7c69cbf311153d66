"""Attacks that look for the smallest change."""

from __future__ import annotations

from collections.abc import Sequence

from convlens.v1 import adversarial_pb2
from convlens_client.calls import Call
from convlens_client.images import Images, ResizeLike, to_images
from convlens_client.requests.job import submit
from convlens_client.results import Snapshot


def lbfgs_attack(
    images: Images,
    targets: int | Sequence[int],
    *,
    searches: int | None = None,
    steps: int | None = None,
    initial_constant: float | None = None,
    seed: int | None = None,
    model: str = "",
    resize: ResizeLike | None = None,
    request_id: str = "",
) -> Call[Snapshot]:
    """Queues the smallest changes that make the model see `targets`: a class an image, or one for all.

    By L-BFGS-B; the other parameters are those of `convlens.v1.LbfgsAttack`. The report is an `AttackResult`.
    """
    technique = adversarial_pb2.LbfgsAttack(
        images=to_images(images, resize),
        targets=each(targets),
        searches=searches,
        steps=steps,
        initial_constant=initial_constant,
    )
    return submit(technique, model=model, seed=seed, request_id=request_id)


def carlini_wagner(
    images: Images,
    *,
    targets: int | Sequence[int] = (),
    labels: int | Sequence[int] = (),
    searches: int | None = None,
    steps: int | None = None,
    learning_rate: float | None = None,
    confidence: float | None = None,
    initial_constant: float | None = None,
    no_early_stop: bool = False,
    seed: int | None = None,
    model: str = "",
    resize: ResizeLike | None = None,
    request_id: str = "",
) -> Call[Snapshot]:
    """Queues the attack of Carlini and Wagner in L2: towards `targets`, a class an image or one for all.

    Without targets, away from `labels`, one an image, or from what the model predicts. The other parameters
    are those of `convlens.v1.CarliniWagner`. The report is an `AttackResult`.
    """
    technique = adversarial_pb2.CarliniWagner(
        images=to_images(images, resize),
        targets=each(targets),
        labels=each(labels),
        searches=searches,
        steps=steps,
        learning_rate=learning_rate,
        confidence=confidence,
        initial_constant=initial_constant,
        no_early_stop=no_early_stop,
    )
    return submit(technique, model=model, seed=seed, request_id=request_id)


def each(classes: int | Sequence[int]) -> Sequence[int]:
    """The classes; a single one as a sequence."""
    return [classes] if isinstance(classes, int) else classes
