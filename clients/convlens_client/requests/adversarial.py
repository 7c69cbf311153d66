"""Attacks that iterate, as jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

from convlens.errors import InvalidArgument
from convlens.v1 import adversarial_pb2
from convlens_client.contract import one_of
from convlens_client.images import Images, ResizeLike
from convlens_client.requests.job import Fields, technique
from convlens_client.requests.model import model_ref

Class = int | str
"""A class by its index or its name."""
Classes = Class | Sequence[Class]
"""A class an image, or one for all."""
DefenceName = Literal["bit_depth", "jpeg", "total_variation"]
STRENGTH: Final[dict[str, tuple[str, type[int] | type[float]]]] = {
    "bit_depth": ("bits", int),
    "jpeg": ("quality", int),
    "total_variation": ("weight", float),
}
"""The field that says how strong each defence is, and its type."""
Transforms = adversarial_pb2.Transforms
"""How pictures are seen by a camera, such as `Transforms(rotation=45)`."""


@technique(adversarial_pb2.LbfgsAttack)
def lbfgs_attack(
    images: Images, targets: Classes, *, resize: ResizeLike | None = None, **parameters: Any
) -> None:
    """Queues the smallest changes that make the model see `targets`: a class an image, or one for all.

    By L-BFGS-B; the other parameters are those of `convlens.v1.LbfgsAttack`. The report is an `AttackResult`.
    """


@technique(adversarial_pb2.CarliniWagner)
def carlini_wagner(
    images: Images,
    *,
    targets: Classes = (),
    labels: Classes = (),
    resize: ResizeLike | None = None,
    **parameters: Any,
) -> None:
    """Queues the attack of Carlini and Wagner in L2: towards `targets`, a class an image or one for all.

    Without targets, away from `labels`, one an image, or from what the model predicts. The other parameters
    are those of `convlens.v1.CarliniWagner`. The report is an `AttackResult`.
    """


@technique(adversarial_pb2.ExpectationAttack)
def expectation_attack(
    images: Images,
    targets: Classes,
    *,
    transforms: Transforms | None = None,
    resize: ResizeLike | None = None,
    **parameters: Any,
) -> None:
    """Queues changes that make the model see `targets` however the pictures are turned, tilted and lit.

    Targets: a class an image, or one for all. The other parameters are those of
    `convlens.v1.ExpectationAttack`. The report is an `AttackResult`.
    """


@technique(adversarial_pb2.AdversarialPatch)
def adversarial_patch(
    images: Images,
    target: Class,
    *,
    held_out: Images = (),
    transforms: Transforms | None = None,
    resize: ResizeLike | None = None,
    **parameters: Any,
) -> None:
    """Queues a round patch that makes the model see `target`, learned from `images`.

    It is judged by `held_out`, or by every fifth image. The other parameters are those of
    `convlens.v1.AdversarialPatch`. The report is a `PatchReport`.
    """


@technique(adversarial_pb2.PrintedPhoto)
def printed_photo(
    images: Images, labels: Classes, *, resize: ResizeLike | None = None, **parameters: Any
) -> None:
    """Queues attacks on `images` of classes `labels`, and what printing and photographing undoes of them.

    The other parameters are those of `convlens.v1.PrintedPhoto`. The report is a `PrintedReport`.
    """


@technique(adversarial_pb2.DefenceAttack)
def defence_attack(
    images: Images,
    labels: Classes,
    defence: DefenceName = "jpeg",
    *,
    strength: float | None = None,
    resize: ResizeLike | None = None,
    **parameters: Any,
) -> Fields:
    """Queues PGD against a model behind a defence, and BPDA, which goes through the defence.

    `strength` is JPEG's quality, the bits of the bit depth, or the weight of the total variation; `labels`
    are the true classes, one an image; the other parameters are those of `convlens.v1.DefenceAttack`. The
    report is a `DefenceReport`.
    """
    return {"defence": _defence(defence, strength)}


@technique(adversarial_pb2.AttackEnsemble)
def attack_ensemble(
    images: Images, labels: Classes, *, resize: ResizeLike | None = None, **parameters: Any
) -> None:
    """Queues APGD-CE, APGD-T and Square, each on the images that are still right; `labels`: one an image.

    The other parameters are those of `convlens.v1.AttackEnsemble`. The report is an `EnsembleReport`.
    """


@technique(adversarial_pb2.TransferMatrix)
def transfer_matrix(
    images: Images,
    labels: Classes,
    *,
    models: Sequence[str] = (),
    resize: ResizeLike | None = None,
    **parameters: Any,
) -> Fields:
    """Queues PGD on `model` and on each of `models`, measured on each; `labels`: one an image.

    No `models` means all of the repository that have the same classes. The other parameters are those of
    `convlens.v1.TransferMatrix`. The report is a `TransferReport`.
    """
    return {"models": [model_ref(name) for name in models]}


@technique(adversarial_pb2.Substitute)
def substitute(
    images: Images, held_out: Images, *, resize: ResizeLike | None = None, **parameters: Any
) -> None:
    """Queues a copy of `victim`, learnt from its answers alone, and attacks on the copy that fool it.

    `images` are what the first queries are about, `held_out` what agreement and transfer are measured by.
    A victim is a name that the operator has allowed; empty means this server. The other parameters are those
    of `convlens.v1.Substitute`. The report is a `SubstituteReport`.
    """


def _defence(name: str, strength: float | None) -> adversarial_pb2.Defence:
    field, kind = one_of(STRENGTH, name, "defence")
    message = adversarial_pb2.Defence()
    settings = getattr(message, name)
    settings.SetInParent()
    if strength is not None:
        if strength != kind(strength):
            raise InvalidArgument.of("strength", strength, f"a whole number, the {field} of {name}")
        setattr(settings, field, kind(strength))
    return message
