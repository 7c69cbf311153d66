"""convlens.v1.CollectionService."""

# ruff: noqa: N802 (the methods are named as in the proto)
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np

from convlens.errors import InvalidArgument
from convlens.v1 import collection_pb2 as pb
from convlens.v1 import collection_pb2_grpc, image_pb2, inspection_pb2, model_pb2
from convlens_models.manifest import Manifest
from convlens_models.preprocess import to_input
from convlens_server.collections import maps, pictures
from convlens_server.collections.approximate import approximate
from convlens_server.collections.features import Table
from convlens_server.collections.gateway import CollectionGateway
from convlens_server.collections.nearest import F32, Near, nearest
from convlens_server.collections.top_activations import Top, hit, top_activations
from convlens_server.jobs.job_gateway import JobGateway
from convlens_server.quick.inference_service import InferenceService, Replies, Streamed, parts
from convlens_server.serving.validation import validate
from convlens_server.techniques.unit_patterns import unit_patterns
from convlens_workers.collections import FeatureSet
from convlens_workers.collections.pooling import pool


class CollectionServicer(collection_pb2_grpc.CollectionServiceServicer):
    """Fills, lists, searches and maps collections."""

    def __init__(self, inference: InferenceService, jobs: JobGateway, collections: CollectionGateway) -> None:
        self._inference, self._jobs, self._collections = inference, jobs, collections

    async def CreateCollection(
        self, request: pb.CreateCollectionRequest, context: Any
    ) -> pb.CreateCollectionResponse:
        """A new collection."""
        request = validate(request)
        return pb.CreateCollectionResponse(collection=await self._collections.index.create(request.id))

    async def GetCollection(self, request: pb.GetCollectionRequest, context: Any) -> pb.GetCollectionResponse:
        """One collection."""
        request = validate(request)
        collection = await self._collections.index.get(request.id)
        order = await self._collections.index.order(request.id)
        await self._inference.executor.run(self._count_features, collection, order)
        return pb.GetCollectionResponse(collection=collection)

    async def ListCollections(
        self, request: pb.ListCollectionsRequest, context: Any
    ) -> pb.ListCollectionsResponse:
        """A page of collections."""
        request = validate(request)
        page, token = await self._collections.index.collections(request.page_size, request.page_token)
        return pb.ListCollectionsResponse(collections=page, next_page_token=token)

    async def DeleteCollection(
        self, request: pb.DeleteCollectionRequest, context: Any
    ) -> pb.DeleteCollectionResponse:
        """Remove a collection with all its files."""
        request = validate(request)
        await self._collections.index.delete(request.id)
        await asyncio.to_thread(self._collections.files.drop, request.id)
        return pb.DeleteCollectionResponse()

    async def AddImages(
        self, request_iterator: AsyncIterator[pb.AddImagesRequest], context: Any
    ) -> AsyncIterator[pb.AddImagesResponse]:
        """Take in images, and acknowledge each; a client goes on with another server when this one ends."""
        collection = ""
        with self._jobs.room():
            async for request in self._jobs.until_stopping(request_iterator):
                request = validate(request)  # noqa: PLW2901
                if request.WhichOneof("part") == "collection":
                    if collection:
                        raise InvalidArgument.of("collection", request.collection, "sent once, first")
                    collection = (await self._collections.index.get(request.collection)).id
                elif not collection:
                    raise InvalidArgument.of("image", request.image.name, "sent after the collection's id")
                else:
                    yield await self._add(collection, request.image)

    async def ListImages(self, request: pb.ListImagesRequest, context: Any) -> pb.ListImagesResponse:
        """A page of images."""
        request = validate(request)
        images, token = await self._collections.index.page(request.id, request.page_size, request.page_token)
        return pb.ListImagesResponse(images=images, next_page_token=token)

    async def GetImage(self, request: pb.GetImageRequest, context: Any) -> pb.GetImageResponse:
        """One image's file, or a thumbnail."""
        request = validate(request)
        image = await self._collections.index.named(request.id, request.image)
        encoded = await self._inference.executor.run(self._file, request.id, image.digest, request.thumbnail)
        return pb.GetImageResponse(image=image, encoded=encoded)

    async def FindNearest(self, request: pb.FindNearestRequest, context: Any) -> pb.FindNearestResponse:
        """The nearest neighbours of an image."""
        request = validate(request)
        own = await self._collections.index.named(request.id, request.name) if request.name else None
        order = await self._collections.index.order(
            request.id
        )  # Read last, so that it has the image by that name.
        near, recall, table = await self._inference.executor.run(
            self._nearest, request, order, own.digest if own else ""
        )
        digests = [table.order[position] for position in near.positions]
        images = await self._collections.index.images(request.id, digests)
        neighbours = [
            pb.Neighbour(image=images[digest], distance=distance)
            for digest, distance in zip(digests, near.distances, strict=True)
            if digest in images
        ]
        if request.thumbnail:
            await self._inference.executor.run(
                self._add_thumbnails, request.id, neighbours, request.thumbnail
            )
        return pb.FindNearestResponse(neighbours=neighbours, recall_at_10=recall)

    async def FindTopActivations(
        self, request: pb.FindTopActivationsRequest, context: Any
    ) -> pb.FindTopActivationsResponse:
        """The images that excite a unit most."""
        request = validate(request)
        order = await self._collections.index.order(request.id)
        activations = await self._inference.executor.run(self._top, request, order)
        images = await self._collections.index.images(request.id, [item.image.digest for item in activations])
        for activation in activations:
            activation.image.CopyFrom(images.get(activation.image.digest, activation.image))
        return pb.FindTopActivationsResponse(activations=activations)

    async def MapCollection(self, request: pb.MapCollectionRequest, context: Any) -> Streamed:
        """Where each image lies on a plane."""
        request = validate(request)
        order = await self._collections.index.order(request.id)
        async for reply in self._inference.stream(self._map, request, order):
            yield reply

    async def _add(self, collection: str, file: pb.NamedFile) -> pb.AddImagesResponse:
        try:
            image = await self._inference.executor.run(self._store, collection, file)
        except InvalidArgument as error:
            return pb.AddImagesResponse(image=pb.CollectionImage(name=file.name), error=error.message)
        kept, duplicate = await self._collections.index.add(collection, image)
        return pb.AddImagesResponse(image=kept, duplicate=duplicate)

    def _store(self, collection: str, file: pb.NamedFile) -> pb.CollectionImage:
        image = pictures.examine(file, self._collections.settings.max_image_bytes)
        self._collections.files.put_image(collection, file.encoded)
        return image

    def _count_features(self, collection: pb.Collection, order: Sequence[str]) -> None:
        for features in collection.features:
            digest = self._manifest(features.model).digest
            which = FeatureSet(digest, features.layer, features.pooling)
            covered = self._collections.shards.covered(collection.id, which)
            features.images = len(covered.intersection(order))

    def _file(self, collection: str, digest: str, side: int) -> bytes:
        data = self._collections.files.image(collection, digest)
        return pictures.thumbnail(data, side) if side else data

    def _add_thumbnails(self, collection: str, neighbours: Sequence[pb.Neighbour], side: int) -> None:
        for neighbour in neighbours:
            neighbour.thumbnail = self._file(collection, neighbour.image.digest, side)

    def _table(
        self, collection: str, manifest: Manifest, layer: str, pooling: int, order: Sequence[str]
    ) -> Table:
        which = FeatureSet(manifest.digest, layer, pooling or inspection_pb2.POOLING_MEAN)
        table = Table(self._collections.shards, collection, which, order)
        table.check()
        return table

    def _manifest(self, model: model_pb2.ModelRef) -> Manifest:
        return self._inference.stored(model).manifest

    def _nearest(
        self, request: pb.FindNearestRequest, order: Sequence[str], own: str
    ) -> tuple[Near, float, Table]:
        manifest = self._manifest(request.features.model)
        request = validate(request, manifest)
        features = request.features
        table = self._table(request.id, manifest, features.layer, features.pooling, order)
        metric = request.metric or pb.METRIC_COSINE
        query = table.row(table.order.index(own)) if own else self._vector(request, manifest)
        k = request.k + bool(own)
        if request.approximate:
            near, recall = approximate(self._collections.indexes, table, query, k, metric)
        else:
            near, recall = nearest(table, query, k, metric), 1.0
        keep = [position for position in range(len(near.positions)) if order[near.positions[position]] != own]
        return Near(near.positions[keep][: request.k], near.distances[keep][: request.k]), recall, table

    def _vector(self, request: pb.FindNearestRequest, manifest: Manifest) -> F32:
        features = request.features
        backend = self._inference.backend(features.model, "features.model")
        pixels = to_input(request.image, manifest)[None]
        value = backend.forward(pixels, [features.layer])[features.layer]
        return np.asarray(pool(value, features.pooling or inspection_pb2.POOLING_MEAN).values[0])

    def _top(self, request: pb.FindTopActivationsRequest, order: Sequence[str]) -> list[pb.TopActivation]:
        manifest = self._manifest(request.model)
        request = validate(request, manifest)
        table = self._table(request.id, manifest, request.layer, inspection_pb2.POOLING_MAX, order)
        tops = top_activations(table, request.channel, request.k)
        return [self._activation(request, manifest, order[top.position], top) for top in tops]

    def _activation(
        self, request: pb.FindTopActivationsRequest, manifest: Manifest, digest: str, top: Top
    ) -> pb.TopActivation:
        file = self._collections.files.image(request.id, digest)
        pixels = to_input(image_pb2.Image(encoded=file), manifest)
        place = hit(top, manifest.layer(request.layer), (pixels.shape[1], pixels.shape[2]))
        activation = pb.TopActivation(
            image=pb.CollectionImage(digest=digest), hit=place, crop=pictures.crop(pixels, place.box)
        )
        if request.with_patterns:
            backend = self._inference.backend(request.model)
            (unit,) = unit_patterns(backend, pixels[None], request.layer, request.channel)
            activation.pattern = pictures.signed(unit.pattern)
        return activation

    def _map(self, request: pb.MapCollectionRequest, order: Sequence[str]) -> Replies:
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
