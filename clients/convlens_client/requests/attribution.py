"""What in an image a network responds to, and how far that can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from google.protobuf.message import Message

from convlens.v1 import attribution_pb2, attribution_pb2_grpc
from convlens_client.calls import Messages, Method, Rpc, Tensors
from convlens_client.contract import arms, choose, fill, takes
from convlens_client.from_proto import from_proto
from convlens_client.images import ImageLike, Images, ResizeLike, to_image, to_images
from convlens_client.requests.model import model_ref
from convlens_client.requests.target import ClassScore, Target
from convlens_client.results import Array, Attribution, RandomisedLayer

_Attribution = attribution_pb2_grpc.AttributionServiceStub
_ATTRIBUTE = Method(_Attribution, "Attribute")

TECHNIQUES = arms(attribution_pb2.Attribution.DESCRIPTOR)
"""The messages of the techniques by their names."""
if TYPE_CHECKING:
    Technique = attribution_pb2.Attribution._WhichOneofReturnType_technique
else:
    Technique = Literal[tuple(TECHNIQUES)]
QualityLike = bool | int | attribution_pb2.Quality
"""Whether maps are scored; in how many steps; or the message, with what the scores begin and end with."""


@takes(TECHNIQUES)
def attribute(
    images: Images,
    technique: Technique | Message = "gradient",
    target: Target | None = None,
    *,
    quality: QualityLike = False,
    model: str = "",
    resize: ResizeLike | None = None,
    **parameters: Any,
) -> Rpc[Attribution]:
    """A target attributed to the pixels by one technique; the score of the predicted class by default.

    `parameters` are the fields of the technique's message in `convlens.v1.attribution_pb2`, such as `steps`
    of "integrated_gradients", `samples` and `sigma` of "smoothgrad", `layer` of "grad_cam". The technique may
    also be that message itself. `quality` adds insertion and deletion scores, in so many steps;
    `convlens.v1.attribution_pb2.Quality` says more.
    """
    items = [_item(technique, target, parameters)]
    request = _attribute_request(images, items, quality, model, resize)
    return Tensors(_ATTRIBUTE, request, lambda head, tensors: _attributions(head, tensors)[0])


def attribute_all(
    images: Images,
    attributions: Sequence[tuple[Technique | Message, Target]],
    *,
    quality: QualityLike = False,
    model: str = "",
    resize: ResizeLike | None = None,
) -> Rpc[tuple[Attribution, ...]]:
    """Several attributions of the same images in one call, in the order asked.

    A technique is its name, or its message in `convlens.v1.attribution_pb2`, such as `Rise(masks=500)`.
    """
    items = [_item(technique, target) for technique, target in attributions]
    return Tensors(_ATTRIBUTE, _attribute_request(images, items, quality, model, resize), _attributions)


@takes({"": attribution_pb2.CheckRandomisationRequest.DESCRIPTOR})
def check_randomisation(
    image: ImageLike,
    techniques: Sequence[Technique | Message] = ("gradient", "guided_backprop", "grad_cam"),
    target: Target | None = None,
    *,
    model: str = "",
    resize: ResizeLike | None = None,
    **parameters: Any,
) -> Rpc[tuple[RandomisedLayer, ...]]:
    """Whether maps depend on what the network has learned: its layers become random from the top down.

    For each further layer, at most `layers`, the rank correlation of each technique's map with the trained
    network's. Maps that stay alike show the image rather than the network (Adebayo et al. 2018). `weights`
    come from the layers' "initialiser", as they do by default, or from a normal distribution with the layer's
    own deviation around 0 ("zero_mean") or its own mean ("own_mean").
    """
    request = attribution_pb2.CheckRandomisationRequest(
        model=model_ref(model),
        image=to_image(image, resize),
        attributions=[_item(technique, target) for technique in techniques],
    )
    fill(request, parameters)
    return Messages(Method(_Attribution, "CheckRandomisation"), request, from_proto, tuple)


def _item(
    technique: Technique | Message, target: Target | None, parameters: Mapping[str, Any] = {}
) -> attribution_pb2.Attribution:
    """One technique with its target, as the request carries it."""
    item = attribution_pb2.Attribution(target=(target or ClassScore()).message())
    name: str = technique if isinstance(technique, str) else technique.DESCRIPTOR.name
    if isinstance(technique, Message):
        for name_, message in TECHNIQUES.items():
            if message == technique.DESCRIPTOR:
                name = name_
                getattr(item, name).CopyFrom(technique)
    choose(item, name, parameters)
    return item


def _attribute_request(
    images: Images,
    items: Sequence[attribution_pb2.Attribution],
    quality: QualityLike,
    model: str,
    resize: ResizeLike | None,
) -> attribution_pb2.AttributeRequest:
    request = attribution_pb2.AttributeRequest(
        model=model_ref(model), images=to_images(images, resize), attributions=items
    )
    if isinstance(quality, attribution_pb2.Quality):
        request.quality.CopyFrom(quality)
    elif quality:
        request.quality.CopyFrom(attribution_pb2.Quality(steps=None if quality is True else quality))
    return request


def _attributions(head: Any, tensors: dict[str, Array]) -> tuple[Attribution, ...]:
    quality = from_proto(head.quality) if head.HasField("quality") else None
    return tuple(
        Attribution(
            map=array,
            quality=quality,
            **{name: tuple(getattr(target, name)) for name in target.DESCRIPTOR.fields_by_name},
        )
        for target, array in zip(head.targets, tensors.values(), strict=True)
    )
