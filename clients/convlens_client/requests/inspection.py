"""What a network makes of an image: predictions, activations, and paintings of style networks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from convlens.errors import InvalidArgument
from convlens.v1 import inspection_pb2, inspection_pb2_grpc, style_pb2, style_pb2_grpc
from convlens.v1.image_pb2 import Image
from convlens_client.calls import Method, Rpc, Tensors, Unary
from convlens_client.from_proto import field
from convlens_client.images import ImageLike, Images, ResizeLike, to_image, to_images
from convlens_client.requests.model import model_ref
from convlens_client.requests.parts import in_parts, joined_by_name
from convlens_client.results import Array, Classification

_Inspection = inspection_pb2_grpc.InspectionServiceStub


def classify(
    images: Images, *, top_k: int | None = None, model: str = "", resize: ResizeLike | None = None
) -> Rpc[tuple[Classification, ...]]:
    """The `top_k` best classes of each image, best first."""

    def ask(some: Sequence[Image], _: slice) -> Rpc[tuple[Classification, ...]]:
        request = inspection_pb2.ClassifyRequest(model=model_ref(model), images=some, top_k=top_k)
        return Unary(Method(_Inspection, "Classify"), request, field("classifications"))

    return in_parts(
        inspection_pb2.ClassifyRequest,
        to_images(images, resize),
        ask,
        lambda answers: tuple(itertools.chain.from_iterable(answers)),
    )


def activations(
    images: Images,
    layers: str | Sequence[str],
    *,
    channel: int | None = None,
    top: int | None = None,
    model: str = "",
    resize: ResizeLike | None = None,
) -> Rpc[dict[str, Array]]:
    """Value of each layer, by name, float32 of shape (N, C, H, W) or (N, C), from one pass.

    With `channel` only that channel, (N, 1, ...). With `top` for each image so many channels with the largest
    means, largest first, and "<layer>.channels", int32 (N, k), which says which they are.
    """
    if channel is not None and top is not None:
        raise InvalidArgument.of("channel", channel, "left out with top")
    names = [layers] if isinstance(layers, str) else layers

    def ask(some: Sequence[Image], _: slice) -> Rpc[dict[str, Array]]:
        request = inspection_pb2.GetActivationsRequest(model=model_ref(model), images=some, layers=names)
        if channel is not None:
            request.channel = channel
        if top is not None:
            request.top = top
        return Tensors(Method(_Inspection, "GetActivations"), request, lambda _, tensors: tensors)

    return in_parts(inspection_pb2.GetActivationsRequest, to_images(images, resize), ask, joined_by_name)


def stylise(
    image: ImageLike, model: str, *, tile: int | None = None, resize: ResizeLike | None = None
) -> Rpc[Array]:
    """`image` painted by the style network `model` in one pass: float32 (1, 3, H, W) in [0, 1].

    Images keep their size unless `resize` says otherwise. Those larger than `tile` pixels a side (1,024 by
    default) go through in overlapping tiles, which bounds the server's memory; smaller tiles drift apart in
    colour.
    """
    request = style_pb2.StyliseRequest(model=model_ref(model), image=to_image(image, resize), tile=tile)
    method = Method(style_pb2_grpc.StyleServiceStub, "Stylise")
    return Tensors(method, request, lambda _, tensors: tensors["image"])
