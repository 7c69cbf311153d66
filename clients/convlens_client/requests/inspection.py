"""What a network sees in an image: predictions and activations."""

from __future__ import annotations

from collections.abc import Sequence

from convlens.errors import InvalidArgument
from convlens.v1 import inspection_pb2, inspection_pb2_grpc
from convlens_client.calls import Call, Method, Tensors, Unary
from convlens_client.freezing import freeze
from convlens_client.images import Images, ResizeLike, to_images
from convlens_client.requests.model import model_ref
from convlens_client.results import Array, Classification

_Inspection = inspection_pb2_grpc.InspectionServiceStub


def classify(
    images: Images, *, top_k: int | None = None, model: str = "", resize: ResizeLike | None = None
) -> Call[tuple[Classification, ...]]:
    """The `top_k` best classes of each image, best first."""
    request = inspection_pb2.ClassifyRequest(
        model=model_ref(model), images=to_images(images, resize), top_k=top_k
    )
    return Unary(
        Method(_Inspection, "Classify"),
        request,
        lambda reply: tuple(freeze(item) for item in reply.classifications),
    )


def activations(
    images: Images,
    layers: str | Sequence[str],
    *,
    channel: int | None = None,
    top: int | None = None,
    model: str = "",
    resize: ResizeLike | None = None,
) -> Call[dict[str, Array]]:
    """Value of each layer, by name, float32 of shape (N, C, H, W) or (N, C), from one pass.

    With `channel` only that channel, (N, 1, ...). With `top` for each image so many channels with the largest
    means, largest first, and "<layer>.channels", int32 (N, k), which says which they are.
    """
    if channel is not None and top is not None:
        raise InvalidArgument.of("channel", channel, "left out with top")
    request = inspection_pb2.GetActivationsRequest(
        model=model_ref(model),
        images=to_images(images, resize),
        layers=[layers] if isinstance(layers, str) else layers,
    )
    if channel is not None:
        request.channel = channel
    if top is not None:
        request.top = top
    return Tensors(Method(_Inspection, "GetActivations"), request, lambda _, tensors: tensors)
