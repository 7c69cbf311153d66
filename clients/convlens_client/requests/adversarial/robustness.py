"""Attacks that ask how much a network withstands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from convlens.errors import InvalidArgument
from convlens.v1 import adversarial_pb2
from convlens_client.calls import Call
from convlens_client.choice import chosen
from convlens_client.images import Images, ResizeLike, to_images
from convlens_client.requests.adversarial.minimal import each
from convlens_client.requests.attack import NORMS, NormName
from convlens_client.requests.job import submit
from convlens_client.requests.model import model_ref
from convlens_client.results import Snapshot

DefenceName = Literal["bit_depth", "jpeg", "total_variation"]
STRENGTH: Final[dict[str, tuple[str, type[int] | type[float]]]] = {
    "bit_depth": ("bits", int),
    "jpeg": ("quality", int),
    "total_variation": ("weight", float),
}
"""What tells how strong each defence is."""


def defence_attack(
    images: Images,
    labels: int | Sequence[int],
    defence: DefenceName = "jpeg",
    *,
    strength: float | None = None,
    epsilon: float | None = None,
    step_size: float | None = None,
    steps: int | None = None,
    seed: int | None = None,
    model: str = "",
    resize: ResizeLike | None = None,
    request_id: str = "",
) -> Call[Snapshot]:
    """Queues PGD against a model behind a defence, and BPDA, which goes through the defence.

    `strength` is JPEG's quality, the bits of the bit depth, or the weight of the total variation; `labels`
    are the true classes, one an image; the other parameters are those of `convlens.v1.DefenceAttack`. The
    report is a `DefenceReport`.
    """
    technique = adversarial_pb2.DefenceAttack(
        images=to_images(images, resize),
        labels=each(labels),
        defence=_defence(defence, strength),
        epsilon=epsilon,
        step_size=step_size,
        steps=steps,
    )
    return submit(technique, model=model, seed=seed, request_id=request_id)


def attack_ensemble(
    images: Images,
    labels: int | Sequence[int],
    *,
    norm: NormName = "linf",
    epsilon: float | None = None,
    steps: int | None = None,
    targets: int | None = None,
    queries: int | None = None,
    seed: int | None = None,
    model: str = "",
    resize: ResizeLike | None = None,
    request_id: str = "",
) -> Call[Snapshot]:
    """Queues APGD-CE, APGD-T and Square, each on the images that are still right; `labels`: one an image.

    The other parameters are those of `convlens.v1.AttackEnsemble`. The report is an `EnsembleReport`.
    """
    technique = adversarial_pb2.AttackEnsemble(
        images=to_images(images, resize),
        labels=each(labels),
        norm=chosen(NORMS, norm, "norm"),
        epsilon=epsilon,
        steps=steps,
        targets=targets,
        queries=queries,
    )
    return submit(technique, model=model, seed=seed, request_id=request_id)


def transfer_matrix(
    images: Images,
    labels: int | Sequence[int],
    *,
    models: Sequence[str] = (),
    epsilon: float | None = None,
    steps: int | None = None,
    seed: int | None = None,
    model: str = "",
    resize: ResizeLike | None = None,
    request_id: str = "",
) -> Call[Snapshot]:
    """Queues PGD on `model` and on each of `models`, measured on each; `labels`: one an image.

    No `models` means all of the repository that have the same classes. The other parameters are those of
    `convlens.v1.TransferMatrix`. The report is a `TransferReport`.
    """
    technique = adversarial_pb2.TransferMatrix(
        images=to_images(images, resize),
        labels=each(labels),
        models=[model_ref(name) for name in models],
        epsilon=epsilon,
        steps=steps,
    )
    return submit(technique, model=model, seed=seed, request_id=request_id)


def _defence(name: str, strength: float | None) -> adversarial_pb2.Defence:
    field, kind = chosen(STRENGTH, name, "defence")
    message = adversarial_pb2.Defence()
    settings = getattr(message, name)
    settings.SetInParent()
    if strength is not None:
        if strength != kind(strength):
            raise InvalidArgument.of("strength", strength, f"a whole number, the {field} of {name}")
        setattr(settings, field, kind(strength))
    return message
