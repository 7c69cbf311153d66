"""Images painted by style networks."""

from __future__ import annotations

from convlens.v1 import style_pb2, style_pb2_grpc
from convlens_client.calls import Call, Method, Tensors
from convlens_client.images import ImageLike, ResizeLike, to_image
from convlens_client.requests.model import model_ref
from convlens_client.results import Array


def stylise(
    image: ImageLike, model: str, *, tile: int | None = None, resize: ResizeLike | None = None
) -> Call[Array]:
    """`image` painted by the style network `model` in one pass: float32 (1, 3, H, W) in [0, 1].

    Images keep their size unless `resize` says otherwise. Those larger than `tile` pixels a side (1,024 by
    default) go through in overlapping tiles, which bounds the server's memory; smaller tiles drift apart in
    colour.
    """
    request = style_pb2.StyliseRequest(model=model_ref(model), image=to_image(image, resize), tile=tile)
    return Tensors(
        Method(style_pb2_grpc.StyleServiceStub, "Stylise"), request, lambda _, found: found["image"]
    )
