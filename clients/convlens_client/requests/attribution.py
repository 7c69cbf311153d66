"""What in an image a network responds to, and how far that can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, get_args

from google.protobuf.message import Message

from convlens.errors import InvalidArgument
from convlens.v1 import attribution_pb2, attribution_pb2_grpc
from convlens_client.calls import Call, Messages, Method, Tensors
from convlens_client.choice import chosen
from convlens_client.freezing import freeze
from convlens_client.images import ImageLike, Images, ResizeLike, to_image, to_images
from convlens_client.requests.model import model_ref
from convlens_client.requests.target import ClassScore, Target
from convlens_client.results import Array, Attribution, RandomisedLayer

_Attribution = attribution_pb2_grpc.AttributionServiceStub

Technique = Literal[
    "gradient",
    "guided_backprop",
    "deconvnet",
    "gradient_times_input",
    "integrated_gradients",
    "smoothgrad",
    "grad_cam",
    "guided_grad_cam",
    "occlusion",
    "rise",
]
TECHNIQUES: tuple[Technique, ...] = get_args(Technique)
QualityLike = bool | int | attribution_pb2.Quality
"""Whether maps are scored; in how many steps; or the message, with what the scores begin and end with."""
WeightsName = Literal["initialiser", "zero_mean", "own_mean"]
WEIGHTS: Final = {
    "initialiser": attribution_pb2.RANDOM_WEIGHTS_INITIALISER,
    "zero_mean": attribution_pb2.RANDOM_WEIGHTS_ZERO_MEAN,
    "own_mean": attribution_pb2.RANDOM_WEIGHTS_OWN_MEAN,
}


def attribute(
    images: Images,
    technique: Technique | Message = "gradient",
    target: Target | None = None,
    *,
    quality: QualityLike = False,
    model: str = "",
    resize: ResizeLike | None = None,
    **parameters: float | str,
) -> Call[Attribution]:
    """A target attributed to the pixels by one technique; the score of the predicted class by default.

    `parameters` are the fields of the technique's message in `convlens.v1.attribution_pb2`, such as `steps`
    of "integrated_gradients", `samples` and `sigma` of "smoothgrad", `layer` of "grad_cam". The technique may
    also be that message itself. `quality` adds insertion and deletion scores, in so many steps;
    `convlens.v1.attribution_pb2.Quality` says more.
    """
    asked = [_item(technique, target, parameters)]
    request = _attribute_request(images, asked, quality, model, resize)
    return Tensors(
        Method(_Attribution, "Attribute"), request, lambda head, tensors: _attributions(head, tensors)[0]
    )


def attribute_all(
    images: Images,
    attributions: Sequence[tuple[Technique | Message, Target]],
    *,
    quality: QualityLike = False,
    model: str = "",
    resize: ResizeLike | None = None,
) -> Call[tuple[Attribution, ...]]:
    """Several attributions of the same images in one call, in the order asked.

    A technique is its name, or its message in `convlens.v1.attribution_pb2`, such as `Rise(masks=500)`.
    """
    asked = [_item(technique, target) for technique, target in attributions]
    request = _attribute_request(images, asked, quality, model, resize)
    return Tensors(Method(_Attribution, "Attribute"), request, _attributions)


def check_randomisation(
    image: ImageLike,
    techniques: Sequence[Technique | Message] = ("gradient", "guided_backprop", "grad_cam"),
    target: Target | None = None,
    *,
    layers: int | None = None,
    seed: int | None = None,
    weights: WeightsName | None = None,
    model: str = "",
    resize: ResizeLike | None = None,
) -> Call[tuple[RandomisedLayer, ...]]:
    """Whether maps depend on what the network has learned: its layers become random from the top down.

    For each further layer, at most `layers`, the rank correlation of each technique's map with the trained
    network's. Maps that stay alike show the image rather than the network (Adebayo et al. 2018). The weights
    come from the layers' "initialiser", as they do by default, or from a normal distribution with the layer's
    own deviation around 0 ("zero_mean") or its own mean ("own_mean").
    """
    request = attribution_pb2.CheckRandomisationRequest(
        model=model_ref(model),
        image=to_image(image, resize),
        attributions=[_item(technique, target) for technique in techniques],
        layers=layers,
        seed=seed,
        weights=chosen(WEIGHTS, weights or "initialiser", "weights"),
    )
    return Messages(Method(_Attribution, "CheckRandomisation"), request, freeze, tuple)


def _item(
    technique: Technique | Message, target: Target | None, parameters: dict[str, Any] | None = None
) -> attribution_pb2.Attribution:
    """One technique with its target, as the request carries it."""
    item = attribution_pb2.Attribution(target=(target or ClassScore()).message())
    arms = item.DESCRIPTOR.oneofs_by_name["technique"].fields
    if isinstance(technique, Message):
        kind = technique.DESCRIPTOR
        name = next((arm.name for arm in arms if arm.message_type == kind), kind.name)
    else:
        name = technique
    if name not in TECHNIQUES:
        raise InvalidArgument.of("technique", name, f"one of {', '.join(TECHNIQUES)}")
    message = technique if isinstance(technique, Message) else type(getattr(item, name))()
    _set(message, name, parameters or {})
    getattr(item, name).CopyFrom(message)
    return item


def _set(message: Message, name: str, parameters: dict[str, Any]) -> None:
    known = list(message.DESCRIPTOR.fields_by_name)
    for field, value in parameters.items():
        if field not in known:
            raise InvalidArgument.of(field, value, f"left out: {name} takes {', '.join(known) or 'nothing'}")
        setattr(message, field, value)


def _attribute_request(
    images: Images,
    asked: Sequence[attribution_pb2.Attribution],
    quality: QualityLike,
    model: str,
    resize: ResizeLike | None,
) -> attribution_pb2.AttributeRequest:
    request = attribution_pb2.AttributeRequest(
        model=model_ref(model), images=to_images(images, resize), attributions=asked
    )
    if isinstance(quality, attribution_pb2.Quality):
        request.quality.CopyFrom(quality)
    elif quality:
        steps = None if quality is True else quality
        request.quality.CopyFrom(attribution_pb2.Quality(steps=steps))
    return request


def _attributions(head: Any, tensors: dict[str, Array]) -> tuple[Attribution, ...]:
    return tuple(
        Attribution(
            tuple(target.values),
            tuple(target.class_indices),
            array,
            completeness_residuals=tuple(target.completeness_residuals),
            insertion=tuple(target.insertion),
            deletion=tuple(target.deletion),
            quality=freeze(head.quality) if head.HasField("quality") else None,
        )
        for target, array in zip(head.targets, tensors.values(), strict=True)
    )
