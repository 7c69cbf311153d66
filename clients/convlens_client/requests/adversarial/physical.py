"""Attacks of the physical world: what a camera sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from convlens.v1 import adversarial_pb2
from convlens_client.calls import Call
from convlens_client.choice import chosen
from convlens_client.images import Images, ResizeLike, to_images
from convlens_client.requests.adversarial.minimal import each
from convlens_client.requests.attack import NORMS, NormName
from convlens_client.requests.job import submit
from convlens_client.results import Snapshot


@dataclass(frozen=True)
class Transforms:
    """How pictures are seen; ranges and defaults as in `convlens.v1.Transforms`."""

    rotation: float | None = None
    scale: float | None = None
    perspective: float | None = None
    brightness: float | None = None
    contrast: float | None = None
    noise: float | None = None

    def message(self) -> adversarial_pb2.Transforms:
        """For a request."""
        return adversarial_pb2.Transforms(**asdict(self))


def expectation_attack(
    images: Images,
    targets: int | Sequence[int],
    *,
    transforms: Transforms | None = None,
    norm: NormName = "linf",
    epsilon: float | None = None,
    samples: int | None = None,
    steps: int | None = None,
    angles: int | None = None,
    held_out: int | None = None,
    seed: int | None = None,
    model: str = "",
    resize: ResizeLike | None = None,
    request_id: str = "",
) -> Call[Snapshot]:
    """Queues changes that make the model see `targets` however the pictures are turned, tilted and lit.

    Targets: a class an image, or one for all. The other parameters are those of
    `convlens.v1.ExpectationAttack`. The report is an `AttackResult`.
    """
    technique = adversarial_pb2.ExpectationAttack(
        images=to_images(images, resize),
        targets=each(targets),
        transforms=transforms.message() if transforms else None,
        norm=chosen(NORMS, norm, "norm"),
        epsilon=epsilon,
        samples=samples,
        steps=steps,
        angles=angles,
        held_out=held_out,
    )
    return submit(technique, model=model, seed=seed, request_id=request_id)


def adversarial_patch(
    images: Images,
    target: int,
    *,
    held_out: Images = (),
    size: float | None = None,
    transforms: Transforms | None = None,
    samples: int | None = None,
    steps: int | None = None,
    learning_rate: float | None = None,
    seed: int | None = None,
    model: str = "",
    resize: ResizeLike | None = None,
    request_id: str = "",
) -> Call[Snapshot]:
    """Queues a round patch that makes the model see `target`, learned from `images`.

    It is judged by `held_out`, or by every fifth image. The other parameters are those of
    `convlens.v1.AdversarialPatch`. The report is a `PatchReport`.
    """
    technique = adversarial_pb2.AdversarialPatch(
        images=to_images(images, resize),
        held_out=to_images(held_out, resize),
        target=target,
        size=size,
        transforms=transforms.message() if transforms else None,
        samples=samples,
        steps=steps,
        learning_rate=learning_rate,
    )
    return submit(technique, model=model, seed=seed, request_id=request_id)


def printed_photo(
    images: Images,
    labels: int | Sequence[int],
    *,
    epsilons: Sequence[float] = (),
    photographs: int | None = None,
    rotation: float | None = None,
    blur: float | None = None,
    gamma: float | None = None,
    quality: int | None = None,
    perspective: float | None = None,
    noise: float | None = None,
    seed: int | None = None,
    model: str = "",
    resize: ResizeLike | None = None,
    request_id: str = "",
) -> Call[Snapshot]:
    """Queues attacks on `images` of classes `labels`, and what printing and photographing undoes of them.

    The other parameters are those of `convlens.v1.PrintedPhoto`. The report is a `PrintedReport`.
    """
    technique = adversarial_pb2.PrintedPhoto(
        images=to_images(images, resize),
        labels=each(labels),
        epsilons=epsilons,
        photographs=photographs,
        rotation=rotation,
        blur=blur,
        gamma=gamma,
        quality=quality,
        perspective=perspective,
        noise=noise,
    )
    return submit(technique, model=model, seed=seed, request_id=request_id)
