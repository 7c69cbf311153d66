"""Adversarial images, and the accuracy that attacks leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

from google.protobuf.message import Message

from convlens.errors import InvalidArgument
from convlens.v1 import attack_pb2, attack_pb2_grpc
from convlens_client.calls import Call, Messages, Method, Tensors
from convlens_client.choice import chosen
from convlens_client.freezing import freeze
from convlens_client.images import Images, ResizeLike, to_images
from convlens_client.requests.model import model_ref
from convlens_client.results import Array, AttackOutcome, Robustness

AttackMethod = Literal["fgsm", "bim", "pgd"]
NormName = Literal["linf", "l2"]
ATTACKS: Final[dict[str, type[Message]]] = {
    "fgsm": attack_pb2.Fgsm,
    "bim": attack_pb2.Bim,
    "pgd": attack_pb2.Pgd,
}
NORMS: Final = {"linf": attack_pb2.NORM_LINF, "l2": attack_pb2.NORM_L2}

_Attack = attack_pb2_grpc.AttackServiceStub


def attack(
    images: Images,
    method: AttackMethod = "fgsm",
    *,
    epsilon: float | None = None,
    target: int | None = None,
    labels: Sequence[int] = (),
    steps: int | None = None,
    step_size: float | None = None,
    restarts: int | None = None,
    norm: NormName | None = None,
    start_at_image: bool | None = None,
    seed: int | None = None,
    model: str = "",
    resize: ResizeLike | None = None,
) -> Call[AttackOutcome]:
    """Adversarial images: towards class `target`, else away from `labels` (or from the predictions).

    `epsilon` bounds the change of every pixel value in [0, 1] (8/255 by default), or its Euclidean length
    over the image where PGD's `norm` is "l2" (0.5 by default). BIM and PGD take `steps` and `step_size`; PGD
    alone `restarts`, `norm`, `start_at_image` and `seed`.
    """
    request = attack_pb2.AttackRequest(model=model_ref(model), images=to_images(images, resize))
    _set_technique(
        request,
        method,
        epsilon=epsilon,
        steps=steps,
        step_size=step_size,
        restarts=restarts,
        norm=norm,
        start_at_image=start_at_image,
        seed=seed,
    )
    if target is None:
        request.untargeted.labels.extend(labels)
    else:
        request.targeted.index = target
    return Tensors(Method(_Attack, "Attack"), request, _outcome)


def robustness(
    images: Images,
    labels: Sequence[int],
    method: AttackMethod = "pgd",
    *,
    epsilons: Sequence[float] = (),
    steps: int | None = None,
    step_size: float | None = None,
    restarts: int | None = None,
    norm: NormName | None = None,
    start_at_image: bool | None = None,
    seed: int | None = None,
    model: str = "",
    resize: ResizeLike | None = None,
) -> Call[Robustness]:
    """The share of the images that an attack leaves classified as their `labels`, at rising `epsilons`.

    `follow` yields each point as soon as it is measured, and the alarms last. Many images or steps take
    minutes: give the client a longer timeout with `within`.
    """
    request = attack_pb2.MeasureRobustnessRequest(
        model=model_ref(model), images=to_images(images, resize), labels=labels, epsilons=epsilons
    )
    _set_technique(
        request,
        method,
        steps=steps,
        step_size=step_size,
        restarts=restarts,
        norm=norm,
        start_at_image=start_at_image,
        seed=seed,
    )
    return Messages(
        Method(_Attack, "MeasureRobustness"),
        request,
        lambda reply: freeze(getattr(reply, reply.WhichOneof("part"))),
        lambda items: Robustness(tuple(items[:-1]), items[-1]),
    )


def _set_technique(request: Any, method: str, **parameters: Any) -> None:
    """Put the parameters that are given into the arm of `method`, which must know them."""
    known = chosen(ATTACKS, method, "method").DESCRIPTOR.fields_by_name
    arm = getattr(request, method)
    arm.SetInParent()
    for name, value in parameters.items():
        if value is None:
            continue
        if name not in known:
            raise InvalidArgument.of(name, value, f"left out with {method}, which has no such parameter")
        setattr(arm, name, chosen(NORMS, value, name) if name == "norm" else value)


def _outcome(head: Any, tensors: dict[str, Array]) -> AttackOutcome:
    return AttackOutcome(tuple(freeze(item) for item in head.certificates), **tensors)
