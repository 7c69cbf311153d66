"""Collections: filling them, and asking about their images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from convlens.errors import NotFound
from convlens.v1 import collection_pb2, collection_pb2_grpc, job_pb2
from convlens_client.calls import Exchange, Method, Pages, Rpc, Tensors, Unary
from convlens_client.contract import fill
from convlens_client.from_proto import field, from_proto
from convlens_client.images import ImageLike, ResizeLike, as_it_may_be, to_image
from convlens_client.pictures import SUFFIXES
from convlens_client.requests.job import technique
from convlens_client.requests.model import model_ref
from convlens_client.results import (
    Added,
    Array,
    Collection,
    CollectionImage,
    CollectionMap,
    Neighbours,
    TopActivation,
)

_Collections = collection_pb2_grpc.CollectionServiceStub

Pooling = Literal["mean", "max", "flatten"]
Metric = Literal["cosine", "l2"]
Projection = Literal["pca", "tsne"]


class Named(NamedTuple):
    """The bytes of an image file under the name that it shall have."""

    name: str
    encoded: bytes


def create_collection(id: str) -> Rpc[Collection]:  # noqa: A002
    """A new, empty collection called `id`: lower-case letters, digits, "-" and "_"."""
    request = collection_pb2.CreateCollectionRequest(id=id)
    return Unary(Method(_Collections, "CreateCollection"), request, field("collection"))


def get_collection(id: str) -> Rpc[Collection]:  # noqa: A002
    """One collection, with the features that have been extracted."""
    request = collection_pb2.GetCollectionRequest(id=id)
    return Unary(Method(_Collections, "GetCollection"), request, field("collection"))


def list_collections() -> Rpc[tuple[Collection, ...]]:
    """All collections, without their features."""
    request = collection_pb2.ListCollectionsRequest()
    return Pages(Method(_Collections, "ListCollections"), request, "collections", from_proto)


def delete_collection(id: str) -> Rpc[None]:  # noqa: A002
    """Removes a collection with its images and features."""
    request = collection_pb2.DeleteCollectionRequest(id=id)
    return Unary(Method(_Collections, "DeleteCollection"), request, lambda _: None)


def add_images(
    id: str,  # noqa: A002
    images: str | Path | Iterable[str | Path | Named],
) -> Rpc[tuple[Added, ...]]:
    """Adds images: a folder with all below it, or any number of paths and of (name, bytes).

    Files are read as they are sent. The same bytes are kept once; a file that is no image is refused alone.
    After a break the call goes on behind the last image that the server has; called again with the same
    images, it changes nothing. `Client.follow` shows each answer as it comes.
    """
    first = collection_pb2.AddImagesRequest(collection=id)
    items = (
        collection_pb2.AddImagesRequest(image=collection_pb2.NamedFile(name=name, encoded=encoded))
        for name, encoded in _files(images)
    )
    return Exchange(Method(_Collections, "AddImages"), first, items, from_proto)


def list_images(id: str) -> Rpc[tuple[CollectionImage, ...]]:  # noqa: A002
    """The images of a collection in the order in which they were added."""
    request = collection_pb2.ListImagesRequest(id=id, page_size=1000)
    return Pages(Method(_Collections, "ListImages"), request, "images", from_proto)


def get_image(id: str, name: str, *, thumbnail: int | None = None) -> Rpc[bytes]:  # noqa: A002
    """An image's file, or a JPEG whose longer side has at most `thumbnail` pixels."""
    request = collection_pb2.GetImageRequest(id=id, image=name, thumbnail=thumbnail)
    return Unary(Method(_Collections, "GetImage"), request, lambda reply: reply.encoded)


@technique(job_pb2.ExtractFeatures, without=["part", "shards"])
def extract_features(collection: str, layers: str | Sequence[str], **parameters: Any) -> None:
    """Queues the extraction of features, which searches and maps need, for all images that lack them.

    `poolings` are "mean", "max" and "flatten", by default mean and max; `parts` jobs share the work.
    """


def nearest(
    collection: str,
    image: str | ImageLike,
    layer: str,
    *,
    pooling: Pooling = "mean",
    k: int | None = None,
    metric: Metric = "cosine",
    approximate: bool = False,
    thumbnail: int | None = None,
    model: str = "",
    resize: ResizeLike | None = None,
) -> Rpc[Neighbours]:
    """The `k` images (10 by default) whose features of `layer` are nearest to those of `image`.

    A string is the name of an image of the collection; everything else (a `Path`, bytes, an array, ...) is an
    image of any origin.
    """
    request = collection_pb2.FindNearestRequest(
        id=collection,
        features=_features(model, layer, pooling),
        k=k,
        approximate=approximate,
        thumbnail=thumbnail,
    )
    fill(request, {"metric": metric})
    if isinstance(image, str):
        request.name = image
    else:
        request.image.CopyFrom(to_image(image, resize))
    return Unary(Method(_Collections, "FindNearest"), request, from_proto)


def top_activations(
    collection: str,
    layer: str,
    channel: int,
    *,
    k: int | None = None,
    patterns: bool = False,
    model: str = "",
) -> Rpc[tuple[TopActivation, ...]]:
    """The `k` images (9 by default) that excite a unit most, with the crops that it sees.

    With `patterns` also the unit's guided backprop within each crop.
    """
    request = collection_pb2.FindTopActivationsRequest(
        id=collection, model=model_ref(model), layer=layer, channel=channel, k=k, with_patterns=patterns
    )
    return Unary(Method(_Collections, "FindTopActivations"), request, field("activations"))


def map_collection(
    collection: str,
    layer: str,
    *,
    pooling: Pooling = "mean",
    projection: Projection = "pca",
    perplexity: float | None = None,
    seed: int | None = None,
    model: str = "",
) -> Rpc[CollectionMap]:
    """A place on a plane for each image, near to those with similar features."""
    request = collection_pb2.MapCollectionRequest(id=collection, features=_features(model, layer, pooling))
    fill(request, {"projection": projection, "perplexity": perplexity, "seed": seed})
    return Tensors(Method(_Collections, "MapCollection"), request, _map)


def image_files(folder: Path) -> list[Path]:
    """The files below a folder that are called as images, in the order of their names."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def _files(images: str | Path | Iterable[str | Path | Named]) -> Iterator[Named]:
    if isinstance(images, (str, Path)):
        folder = Path(images).expanduser()
        if not folder.is_dir():
            raise NotFound(f"images: there is no folder {folder}", field="images")
        for path in image_files(folder):
            yield Named(path.relative_to(folder).as_posix(), as_it_may_be(path, "images"))
        return
    for image in images:
        if isinstance(image, (str, Path)):
            yield Named(Path(image).name, as_it_may_be(Path(image), "images"))
        else:
            yield Named(*image)


def _features(model: str, layer: str, pooling: str) -> collection_pb2.FeatureRef:
    features = collection_pb2.FeatureRef(model=model_ref(model), layer=layer)
    fill(features, {"pooling": pooling})
    return features


def _map(_: Any, tensors: dict[str, Array]) -> CollectionMap:
    return CollectionMap(tensors["map"], tensors.get("explained_variance"))
