"""Searches of a collection: its nearest neighbours, its top activations, its map; all of it blocks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convlens.v1 import collection_pb2 as pb
from convlens.v1 import image_pb2, inspection_pb2, model_pb2
from convlens_models.manifest import Manifest
from convlens_models.preprocess import to_input
from convlens_server.backends.base import F32
from convlens_server.collections import maps, pictures
from convlens_server.collections.approximate import approximate
from convlens_server.collections.features import Table
from convlens_server.collections.gateway import CollectionGateway
from convlens_server.collections.nearest import nearest
from convlens_server.collections.top_activations import Top, top_activations
from convlens_server.quick.inference_service import InferenceService, Replies, parts
from convlens_server.request.validation import validate
from convlens_server.techniques.parts.units import hit
from convlens_server.techniques.unit_patterns import unit_patterns
from convlens_workers.collections import FeatureSet
from convlens_workers.collections.pooling import pool


class CollectionSearch:
    """Answers requests about a collection whose images, by SHA-256, are in the given `order`."""

    def __init__(self, inference: InferenceService, collections: CollectionGateway) -> None:
        self._inference, self._collections = inference, collections

    def file(self, collection: str, digest: str, side: int) -> bytes:
        """The file of an image, or a thumbnail with sides of at most `side` pixels unless that is 0."""
        data = self._collections.files.image(collection, digest)
        return pictures.thumbnail(data, side) if side else data

    def add_thumbnails(self, collection: str, neighbours: Sequence[pb.Neighbour], side: int) -> None:
        """Fill in the thumbnails of neighbours."""
        for neighbour in neighbours:
            neighbour.thumbnail = self.file(collection, neighbour.image.digest, side)

    def nearest(
        self, request: pb.FindNearestRequest, order: Sequence[str], own: str
    ) -> tuple[list[pb.Neighbour], float]:
        """The nearest images, of which the digest alone is filled in, and the recall of the search.

        Args:
            own: digest of the image of the collection that is searched for; "" for one in the request.
        """
        manifest = self._manifest(request.features.model)
        request = validate(request, manifest)
        features = request.features
        table = self._table(request.id, manifest, features.layer, features.pooling, order)
        metric = request.metric or pb.METRIC_COSINE
        query = table.row(table.order.index(own)) if own else self._vector(request)
        k = request.k + bool(own)
        if request.approximate:
            near, recall = approximate(self._collections.indexes, table, query, k, metric)
        else:
            near, recall = nearest(table, query, k, metric), 1.0
        neighbours = [
            pb.Neighbour(image=pb.CollectionImage(digest=order[position]), distance=distance)
            for position, distance in zip(near.positions, near.distances, strict=True)
            if order[position] != own
        ]
        return neighbours[: request.k], recall

    def top_activations(
        self, request: pb.FindTopActivationsRequest, order: Sequence[str]
    ) -> list[pb.TopActivation]:
        """The images that excite a unit most, of which the digest alone is filled in."""
        manifest = self._manifest(request.model)
        request = validate(request, manifest)
        table = self._table(request.id, manifest, request.layer, inspection_pb2.POOLING_MAX, order)
        tops = top_activations(table, request.channel, request.k)
        return [self._activation(request, manifest, order[top.position], top) for top in tops]

    def map(self, request: pb.MapCollectionRequest, order: Sequence[str]) -> Replies:
        """The tensors "map", (N, 2) in [0, 1], and of principal components "explained_variance"."""
        manifest = self._manifest(request.features.model)
        request = validate(request, manifest)
        features = request.features
        table = self._table(request.id, manifest, features.layer, features.pooling, order)
        if request.projection == pb.PROJECTION_TSNE:
            tensors = {"map": maps.unit_square(maps.tsne(table, request.perplexity, request.seed))}
        else:
            points, shares = maps.pca(table)
            tensors = {"map": maps.unit_square(points), "explained_variance": shares}
        yield parts(pb.MapCollectionResponse, tensors)

    def _manifest(self, model: model_pb2.ModelRef) -> Manifest:
        return self._inference.stored(model).manifest

    def _table(
        self, collection: str, manifest: Manifest, layer: str, pooling: int, order: Sequence[str]
    ) -> Table:
        which = FeatureSet(manifest.digest, layer, pooling or inspection_pb2.POOLING_MEAN)
        table = Table(self._collections.shards, collection, which, order)
        table.check()
        return table

    def _vector(self, request: pb.FindNearestRequest) -> F32:
        features = request.features
        backend = self._inference.backend(features.model, "features.model")
        pixels = self._inference.batch([request.image], backend, [features.layer], "image")
        value = backend.forward(pixels, [features.layer])[features.layer]
        return np.asarray(pool(value, features.pooling or inspection_pb2.POOLING_MEAN).values[0])

    def _activation(
        self, request: pb.FindTopActivationsRequest, manifest: Manifest, digest: str, top: Top
    ) -> pb.TopActivation:
        pixels = to_input(image_pb2.Image(encoded=self.file(request.id, digest, 0)), manifest)
        place = hit(manifest.layer(request.layer), top.value, top.y, top.x, pixels.shape[1:])
        activation = pb.TopActivation(
            image=pb.CollectionImage(digest=digest), hit=place, crop=pictures.crop(pixels, place.box)
        )
        if request.with_patterns:
            backend = self._inference.backend(request.model)
            (unit,) = unit_patterns(backend, pixels[None], request.layer, request.channel)
            activation.pattern = pictures.signed(unit.pattern)
        return activation
