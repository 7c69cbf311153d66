"""Images painted by style networks, and the training of such networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convlens.errors import InvalidArgument
from convlens.v1 import style_pb2, style_pb2_grpc
from convlens_client.calls import Call, Method, Tensors
from convlens_client.images import ImageLike, ResizeLike, to_image
from convlens_client.requests.job import submit
from convlens_client.requests.model import model_ref
from convlens_client.results import Array, Snapshot


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


def train_style(
    style: ImageLike,
    name: str,
    *,
    collection: str | None = None,
    folder: str | None = None,
    preview: ImageLike | None = None,
    preview_resize: ResizeLike | None = None,
    steps: int | None = None,
    batch: int | None = None,
    size: int | None = None,
    width: int | None = None,
    learning_rate: float | None = None,
    content_weight: float | None = None,
    tv_weight: float | None = None,
    style_size: int | None = None,
    layers: Mapping[str, float] | Sequence[str] = (),
    content_layer: str = "",
    seed: int | None = None,
    model: str = "",
    resize: ResizeLike | None = "keep",
    request_id: str = "",
) -> Call[Snapshot]:
    """Queues the training of a style network, which becomes the next version of `name` in the repository.

    It learns from the pictures of a `collection`, or of a `folder` that the operator has allowed under this
    name. The job's `report.model` is what `stylise` takes; the artifact "image" is `preview` painted. `model`
    compares the pictures; the other parameters are those of `convlens.v1.TrainStyle`.
    """
    if (collection is None) == (folder is None):
        raise InvalidArgument.of("source", "both" if folder else "neither", "one of collection, folder")
    source: dict[str, Any] = {"folder": folder} if collection is None else {"collection": collection}
    technique = style_pb2.TrainStyle(
        **source,
        style=to_image(style, resize, "style"),
        name=name,
        preview=None if preview is None else to_image(preview, preview_resize, "preview"),
        steps=steps,
        batch=batch,
        size=size,
        width=width,
        learning_rate=learning_rate,
        content_weight=content_weight,
        tv_weight=tv_weight,
        style_size=style_size,
        layers=layers,
        weights=layers.values() if isinstance(layers, Mapping) else (),
        content_layer=content_layer,
    )
    return submit(technique, model=model, seed=seed, request_id=request_id)
