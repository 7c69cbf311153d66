"""Adversarial images, and the accuracy that attacks leave."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from convlens.v1 import attack_pb2, attack_pb2_grpc
from convlens.v1.image_pb2 import Image
from convlens_client.calls import Messages, Method, Rpc, Tensors
from convlens_client.contract import arms, choose, fill, takes
from convlens_client.from_proto import field, from_proto
from convlens_client.images import Images, ResizeLike, to_images
from convlens_client.requests.classes import by_name
from convlens_client.requests.model import model_ref
from convlens_client.requests.parts import in_parts, joined
from convlens_client.results import Array, AttackOutcome, Robustness

METHODS = arms(attack_pb2.AttackRequest.DESCRIPTOR)
"""The messages of the attacks by their names."""
if TYPE_CHECKING:
    AttackMethod = attack_pb2.AttackRequest._WhichOneofReturnType_technique
else:
    AttackMethod = Literal[tuple(METHODS)]

_Attack = attack_pb2_grpc.AttackServiceStub


@by_name
@takes(METHODS)
def attack(
    images: Images,
    method: AttackMethod = "fgsm",
    *,
    target: int | str | None = None,
    labels: Sequence[int | str] = (),
    model: str = "",
    resize: ResizeLike | None = None,
    **parameters: Any,
) -> Rpc[AttackOutcome]:
    """Adversarial images: towards class `target`, else away from `labels` (or from the predictions).

    `epsilon` bounds the change of every pixel value in [0, 1] (8/255 by default), or its Euclidean length
    over the image where PGD's `norm` is "l2" (0.5 by default). BIM and PGD take `steps` and `step_size`; PGD
    alone `restarts`, `norm`, `start_at_image` and `seed`.
    """

    def ask(some: Sequence[Image], place: slice) -> Rpc[AttackOutcome]:
        request = attack_pb2.AttackRequest(model=model_ref(model), images=some)
        choose(request, method, parameters, "method")
        if target is None:
            request.untargeted.SetInParent()
            fill(request.untargeted, {"labels": labels[place]})
        else:
            fill(request.targeted, {"index": target})
        return Tensors(Method(_Attack, "Attack"), request, _outcome)

    return in_parts(attack_pb2.AttackRequest, to_images(images, resize), ask, _joined)


@by_name
@takes(METHODS, without=["epsilon"])
def robustness(
    images: Images,
    labels: Sequence[int | str],
    method: AttackMethod = "pgd",
    *,
    epsilons: Sequence[float] = (),
    model: str = "",
    resize: ResizeLike | None = None,
    **parameters: Any,
) -> Rpc[Robustness]:
    """The share of the images that an attack leaves classified as their `labels`, at rising `epsilons`.

    `follow` yields each point as soon as it is measured, and the alarms last. Many images or steps take
    minutes: give the client a longer timeout with `within`.
    """
    request = attack_pb2.MeasureRobustnessRequest(
        model=model_ref(model), images=to_images(images, resize), epsilons=epsilons
    )
    fill(request, {"labels": labels})
    choose(request, method, parameters, "method")
    return Messages(
        Method(_Attack, "MeasureRobustness"),
        request,
        lambda reply: from_proto(getattr(reply, reply.WhichOneof("part"))),
        lambda items: Robustness(tuple(items[:-1]), items[-1]),
    )


def _joined(outcomes: Sequence[AttackOutcome]) -> AttackOutcome:
    certificates = tuple(itertools.chain.from_iterable(each.certificates for each in outcomes))
    names = ("original", "gradient_sign", "adversarial")
    return AttackOutcome(certificates, *(joined(getattr(each, name) for each in outcomes) for name in names))


def _outcome(head: Any, tensors: dict[str, Array]) -> AttackOutcome:
    return AttackOutcome(field("certificates")(head), **tensors)
