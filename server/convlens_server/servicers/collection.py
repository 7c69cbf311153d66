"""convlens.v1.CollectionService."""

# ruff: noqa: N802 (the methods are named as in the proto)
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from convlens.errors import InvalidArgument, NotFound
from convlens.v1 import collection_pb2 as pb
from convlens.v1 import collection_pb2_grpc
from convlens_server.collections import pictures
from convlens_server.collections.search import CollectionSearch
from convlens_server.quick.inference_service import Streamed
from convlens_server.request.validation import validate
from convlens_server.servicers.base import Gateways, validated
from convlens_workers.collections import CollectionIndex, FeatureSet


class CollectionServicer(collection_pb2_grpc.CollectionServiceServicer):
    """Fills, lists, searches and maps collections."""

    def __init__(self, gateways: Gateways) -> None:
        self._inference, self._jobs, self._collections, _ = gateways
        self._run = self._inference.executor.run
        self._search = CollectionSearch(self._inference, self._collections)

    @property
    def _index(self) -> CollectionIndex:
        return self._collections.index

    @validated
    async def CreateCollection(self, request: pb.CreateCollectionRequest) -> pb.CreateCollectionResponse:
        """Make a new collection."""
        return pb.CreateCollectionResponse(collection=await self._index.create(request.id))

    @validated
    async def GetCollection(self, request: pb.GetCollectionRequest) -> pb.GetCollectionResponse:
        """Describe one collection, with the number of images that have features of each kind."""
        collection = await self._index.get(request.id)
        await self._run(self._count_features, collection, await self._index.order(request.id))
        return pb.GetCollectionResponse(collection=collection)

    @validated
    async def ListCollections(self, request: pb.ListCollectionsRequest) -> pb.ListCollectionsResponse:
        """List a page of collections."""
        page, token = await self._index.collections(request.page_size, request.page_token)
        return pb.ListCollectionsResponse(collections=page, next_page_token=token)

    @validated
    async def DeleteCollection(self, request: pb.DeleteCollectionRequest) -> pb.DeleteCollectionResponse:
        """Remove a collection with all its files."""
        await self._index.close(request.id)
        await asyncio.to_thread(self._collections.files.drop, request.id)
        await self._index.delete(request.id)
        return pb.DeleteCollectionResponse()

    async def AddImages(
        self, request_iterator: AsyncIterator[pb.AddImagesRequest], context: Any
    ) -> AsyncIterator[pb.AddImagesResponse]:
        """Take in images, and acknowledge each; a client goes on with another server when this one ends."""
        collection = ""
        with self._jobs.room():
            async for request in self._jobs.until_stopping(request_iterator):
                try:
                    request = validate(request)  # noqa: PLW2901
                except InvalidArgument as error:
                    if not collection or request.WhichOneof("part") != "image":
                        raise
                    yield _refused(request.image.name, error)
                    continue
                if request.WhichOneof("part") == "collection":
                    if collection:
                        raise InvalidArgument.of("collection", request.collection, "sent once, first")
                    collection = (await self._index.get(request.collection)).id
                elif not collection:
                    raise InvalidArgument.of("image", request.image.name, "sent after the collection's id")
                else:
                    yield await self._add(collection, request.image)

    @validated
    async def ListImages(self, request: pb.ListImagesRequest) -> pb.ListImagesResponse:
        """List a page of images."""
        images, token = await self._index.page(request.id, request.page_size, request.page_token)
        return pb.ListImagesResponse(images=images, next_page_token=token)

    @validated
    async def GetImage(self, request: pb.GetImageRequest) -> pb.GetImageResponse:
        """Send one image's file, or a thumbnail."""
        image = await self._index.named(request.id, request.image)
        encoded = await self._run(self._search.file, request.id, image.digest, request.thumbnail)
        return pb.GetImageResponse(image=image, encoded=encoded)

    @validated
    async def FindNearest(self, request: pb.FindNearestRequest) -> pb.FindNearestResponse:
        """Find the nearest neighbours of an image."""
        own = (await self._index.named(request.id, request.name)).digest if request.name else ""
        order = await self._index.order(request.id)  # Read last, so that it has the image by that name.
        neighbours, recall = await self._run(self._search.nearest, request, order, own)
        images = await self._index.images(request.id, [item.image.digest for item in neighbours])
        neighbours = [item for item in neighbours if item.image.digest in images]
        for item in neighbours:
            item.image.CopyFrom(images[item.image.digest])
        if request.thumbnail:
            await self._run(self._search.add_thumbnails, request.id, neighbours, request.thumbnail)
        return pb.FindNearestResponse(neighbours=neighbours, recall_at_10=recall)

    @validated
    async def FindTopActivations(
        self, request: pb.FindTopActivationsRequest
    ) -> pb.FindTopActivationsResponse:
        """Find the images that excite a unit most."""
        order = await self._index.order(request.id)
        activations = await self._run(self._search.top_activations, request, order)
        images = await self._index.images(request.id, [item.image.digest for item in activations])
        for item in activations:
            item.image.CopyFrom(images.get(item.image.digest, item.image))
        return pb.FindTopActivationsResponse(activations=activations)

    async def MapCollection(self, request: pb.MapCollectionRequest, context: Any) -> Streamed:
        """Send the place of each image on a plane."""
        request = validate(request)
        order = await self._index.order(request.id)
        async for reply in self._inference.stream(self._search.map, request, order):
            yield reply

    async def _add(self, collection: str, file: pb.NamedFile) -> pb.AddImagesResponse:
        try:
            image = await self._run(self._store, collection, file)
        except InvalidArgument as error:
            return _refused(file.name, error)
        try:
            kept, duplicate = await self._index.add(collection, image)
        except NotFound:  # Deleted meanwhile, perhaps after its files were.
            await self._run(self._collections.files.drop_image, collection, image.digest)
            raise
        return pb.AddImagesResponse(image=kept, duplicate=duplicate)

    def _store(self, collection: str, file: pb.NamedFile) -> pb.CollectionImage:
        image = pictures.examine(file, self._collections.settings.max_image_bytes)
        self._collections.files.put_image(collection, file.encoded)
        return image

    def _count_features(self, collection: pb.Collection, order: Sequence[str]) -> None:
        for features in collection.features:
            digest = self._inference.stored(features.model).manifest.digest
            which = FeatureSet(digest, features.layer, features.pooling)
            covered = self._collections.shards.covered(collection.id, which)
            features.images = len(covered.intersection(order))


def _refused(name: str, error: InvalidArgument) -> pb.AddImagesResponse:
    """The answer to a file that is no image; those after it are taken."""
    return pb.AddImagesResponse(image=pb.CollectionImage(name=name), error=error.message)
