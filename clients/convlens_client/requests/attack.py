"""Adversarial images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convlens.v1 import attack_pb2, attack_pb2_grpc
from convlens_client.calls import Call, Method, Tensors
from convlens_client.images import Images, ResizeLike, to_images
from convlens_client.requests.model import model_ref
from convlens_client.results import Array, AttackOutcome, freeze


def attack(
    images: Images,
    *,
    epsilon: float | None = None,
    target: int | None = None,
    labels: Sequence[int] = (),
    model: str = "",
    resize: ResizeLike | None = None,
) -> Call[AttackOutcome]:
    """Adversarial images by FGSM: towards class `target`, else away from `labels` (or from the predictions).

    `epsilon` is the largest change of a pixel in [0, 1], 8/255 by default.
    """
    request = attack_pb2.AttackRequest(
        model=model_ref(model), images=to_images(images, resize), fgsm=attack_pb2.Fgsm(epsilon=epsilon)
    )
    if target is None:
        request.untargeted.labels.extend(labels)
    else:
        request.targeted.index = target
    return Tensors(Method(attack_pb2_grpc.AttackServiceStub, "Attack"), request, _outcome)


def _outcome(head: Any, tensors: dict[str, Array]) -> AttackOutcome:
    return AttackOutcome(tuple(freeze(item) for item in head.certificates), **tensors)
