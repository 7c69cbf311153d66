"""What in an image a network responds to, and how far that can be trusted."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from google.protobuf.message import Message

from convlens.v1 import attribution_pb2, attribution_pb2_grpc, job_pb2
from convlens.v1.image_pb2 import Image
from convlens_client.calls import Messages, Method, Rpc, Steps, Tensors
from convlens_client.contract import arms, choose, fill, takes
from convlens_client.from_proto import from_proto
from convlens_client.images import ImageLike, Images, ResizeLike, to_image, to_images, to_resize
from convlens_client.requests.classes import by_name
from convlens_client.requests.job import Priority, submit
from convlens_client.requests.model import model_ref
from convlens_client.requests.parts import in_parts, joined
from convlens_client.requests.target import ClassScore, Target
from convlens_client.results import Array, Attribution, RandomisedLayer, Snapshot

T = TypeVar("T")
NUMBERS: Final = ("values", "class_indices", "completeness_residuals", "insertion", "deletion")
"""What an `Attribution` has one of for each image, beside the map."""
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


@by_name
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
    return _attribute(to_images(images, resize), items, quality, model, lambda all_: all_[0])


@by_name
def attribute_all(
    images: Images,
    attributions: Sequence[tuple[Technique | Message, Target | None]],
    *,
    quality: QualityLike = False,
    model: str = "",
    resize: ResizeLike | None = None,
) -> Rpc[tuple[Attribution, ...]]:
    """Several attributions of the same images in one call, in the order asked.

    A technique is its name, or its message in `convlens.v1.attribution_pb2`, such as `Rise(masks=500)`.
    """
    items = [_item(technique, target) for technique, target in attributions]
    return _attribute(to_images(images, resize), items, quality, model, lambda all_: all_)


@by_name
@takes(TECHNIQUES)
def attribution_maps(
    images: Images,
    technique: Technique | Message = "rise",
    target: Target | None = None,
    *,
    model: str = "",
    resize: ResizeLike | None = None,
    request_id: str = "",
    priority: Priority = "NORMAL",
    tags: Mapping[str, str] = MappingProxyType({}),
    **parameters: Any,
) -> Rpc[Snapshot]:
    """Queues what `attribute` computes, for as many passes as a call may not take; the same numbers.

    The techniques are those that are sums over perturbed copies: "rise", "occlusion", "smoothgrad" and
    "integrated_gradients". The artifact is "0.<technique>", the report an `AttributeResult`.
    """
    job = job_pb2.AttributionMaps(
        images=_as_in_calls(to_images(images, resize)), attributions=[_item(technique, target, parameters)]
    )
    return submit(job, model=model, request_id=request_id, priority=priority, tags=tags)


def _as_in_calls(images: Sequence[Image]) -> Sequence[Image]:
    """Files that nothing is said of at the size that quick calls give them: jobs would keep theirs."""
    for image in images:
        if image.WhichOneof("source") == "encoded" and not image.HasField("resize"):
            image.resize.CopyFrom(to_resize("short_side"))
    return images


@by_name
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


def _attribute(
    images: Sequence[Image],
    items: Sequence[attribution_pb2.Attribution],
    quality: QualityLike,
    model: str,
    pick: Callable[[tuple[Attribution, ...]], T],
) -> Rpc[T]:
    """The call, and of what it comes to, for all of `items`, what the caller wants."""

    def ask(some: Sequence[Image], _: slice) -> Rpc[tuple[Attribution, ...]]:
        request = attribution_pb2.AttributeRequest(model=model_ref(model), images=some, attributions=items)
        if isinstance(quality, attribution_pb2.Quality):
            request.quality.CopyFrom(quality)
        elif quality:
            request.quality.CopyFrom(attribution_pb2.Quality(steps=None if quality is True else quality))
        return Tensors(_ATTRIBUTE, request, _attributions)

    def steps() -> Generator[Rpc[Any], Any, T]:
        return pick((yield in_parts(attribution_pb2.AttributeRequest, images, ask, _joined)))

    return Steps(steps())


def _joined(answers: Sequence[tuple[Attribution, ...]]) -> tuple[Attribution, ...]:
    """The attributions of some images each as those of all."""
    return tuple(
        Attribution(
            map=joined(part.map for part in parts),
            quality=parts[0].quality,
            **{name: tuple(itertools.chain(*(getattr(part, name) for part in parts))) for name in NUMBERS},
        )
        for parts in zip(*answers, strict=True)
    )


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
