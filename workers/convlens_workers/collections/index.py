"""The index of collections: which images they have, in which order and under which names. Kept in Redis.

Redis rather than files in the artifact store, because several servers add to one collection at once: digests
and names must stay unique, and the order must be the same for all. It is small, and as durable as the jobs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Final

from convlens.errors import AlreadyExists, InvalidArgument, NotFound, ResourceExhausted
from convlens.v1 import collection_pb2
from convlens_workers.collections import scripts
from convlens_workers.collections.files import owned
from convlens_workers.jobs.queries import check_page_token
from convlens_workers.jobs.redis_errors import redis_errors

ID: Final = re.compile(r"[a-z0-9_-]{1,64}")
POSITION: Final = re.compile(r"[0-9]{1,9}")


class CollectionIndex:
    """The collections, for any number of tasks of one event loop.

    Every method raises Unavailable with `retry_after` when Redis is away, and NotFound where there is no
    such collection.

    Args:
        redis: an asyncio client.
        max_images: images that one collection may have.
        owner: whose collections; others have none of them, and may use the same ids.
    """

    def __init__(self, redis: Any, max_images: int, owner: str = "") -> None:
        self._redis = redis
        self._scripts = scripts.bind(redis)
        self._max_images = max_images
        self._owner = owner

    async def create(self, id_: str) -> collection_pb2.Collection:
        """Create an empty collection. Raises InvalidArgument, AlreadyExists."""
        if not ID.fullmatch(id_):
            raise InvalidArgument.of("id", id_, '1 to 64 lower-case letters, digits, "-" and "_"')
        if not await self._call("create", id_):
            raise AlreadyExists(f"there is a collection {id_!r}, or one that is being deleted", field="id")
        return await self.get(id_)

    async def get(self, id_: str) -> collection_pb2.Collection:
        """A collection; its feature sets are without their count of images."""
        (collection,) = await self._collections([id_])
        if collection is None:
            raise _unknown(id_)
        with redis_errors():
            sets = await self._redis.hgetall(f"{self._key(id_)}:features")
        collection.features.extend(collection_pb2.FeatureSet.FromString(sets[key]) for key in sorted(sets))
        return collection

    async def close(self, id_: str) -> None:
        """Hide a collection that is to be deleted: nothing is added to it any more.

        Then `CollectionFiles.drop` removes its files, and `delete` all that is left. Who fails in between
        begins anew, and the id is free when all is done.
        """
        if not await self._call("close", id_):
            raise _unknown(id_)

    async def delete(self, id_: str) -> None:
        """Remove a closed collection from the index."""
        await self._call("delete", id_)

    async def add(
        self, id_: str, image: collection_pb2.CollectionImage
    ) -> tuple[collection_pb2.CollectionImage, bool]:
        """The image as it is kept, and whether its bytes were there already.

        Where its name is another image's, it becomes "name (2)".

        Raises:
            ResourceExhausted: the collection is full.
        """
        name = image.name
        while True:
            body = image.SerializeToString(deterministic=True)
            outcome = await self._call(
                "add", id_, image.digest, image.name, name, body, image.bytes, self._max_images
            )
            match outcome:
                case [b"added"]:
                    return image, False
                case [b"known", known]:
                    return collection_pb2.CollectionImage.FromString(known), True
                case [b"gone"]:
                    raise _unknown(id_)
                case [b"full"]:
                    full = f"collection {id_!r} is full: it has {self._max_images} images"
                    raise ResourceExhausted(full, reason="COLLECTION_FULL")
                case [b"taken", times]:
                    image.name = f"{name} ({times + 1})"

    async def page(
        self, id_: str, page_size: int, page_token: str
    ) -> tuple[list[collection_pb2.CollectionImage], str]:
        """A page of images in the order in which they were added, and the next page's token."""
        check_page_token(page_token, POSITION)
        start = int(page_token or 0)
        digests = await self.order(id_, start, start + page_size + 1)
        images = await self.images(id_, digests[:page_size])
        return list(images.values()), str(start + page_size) if len(digests) > page_size else ""

    async def order(self, id_: str, start: int = 0, stop: int | None = None) -> list[str]:
        """SHA-256 of the images in the order in which they were added."""
        with redis_errors():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.hmget(self._key(id_), "create_time", "deleting")
                pipe.lrange(f"{self._key(id_)}:order", start, -1 if stop is None else stop - 1)
                (created, deleting), digests = await pipe.execute()
        if created is None or deleting is not None:
            raise _unknown(id_)
        return [digest.decode() for digest in digests]

    async def images(self, id_: str, digests: Sequence[str]) -> Mapping[str, collection_pb2.CollectionImage]:
        """The images with these SHA-256, as far as the collection has them, in this order."""
        if not digests:
            return {}
        with redis_errors():
            rows = await self._redis.hmget(f"{self._key(id_)}:images", list(digests))
        return {
            digest: collection_pb2.CollectionImage.FromString(row)
            for digest, row in zip(digests, rows, strict=True)
            if row is not None
        }

    async def named(self, id_: str, name: str) -> collection_pb2.CollectionImage:
        """The image called `name`. Raises NotFound."""
        with redis_errors():
            digest = await self._redis.hget(f"{self._key(id_)}:names", name)
        images = await self.images(id_, [digest.decode()] if digest else [])
        if not images:
            raise NotFound(f"collection {id_!r} has no image {name!r}, or does not exist")
        return next(iter(images.values()))

    async def describe(self, id_: str, sets: Mapping[str, collection_pb2.FeatureSet]) -> None:
        """Add feature sets, by their keys, to what is known of a collection."""
        pairs = ((key, value.SerializeToString(deterministic=True)) for key, value in sets.items())
        if not await self._call("describe", id_, *chain.from_iterable(pairs)):
            raise _unknown(id_)

    async def collections(
        self, page_size: int, page_token: str
    ) -> tuple[list[collection_pb2.Collection], str]:
        """A page of collections by id, without feature sets, and the next page's token."""
        check_page_token(page_token, ID)
        lowest, key = f"({page_token}" if page_token else "-", owned(self._owner, scripts.IDS)
        with redis_errors():
            members = await self._redis.zrangebylex(key, lowest, "+", 0, page_size + 1)
        ids = [member.decode() for member in members]
        collections = await self._collections(ids[:page_size])
        token = ids[page_size - 1] if len(ids) > page_size else ""
        return [collection for collection in collections if collection is not None], token

    async def _collections(self, ids: Sequence[str]) -> list[collection_pb2.Collection | None]:
        with redis_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                for id_ in ids:
                    pipe.hmget(self._key(id_), "create_time", "bytes", "deleting")
                    pipe.llen(f"{self._key(id_)}:order")
                rows = await pipe.execute() if ids else []
        return [
            _collection(id_, facts[0], facts[1], images) if facts[0] and not facts[2] else None
            for id_, facts, images in zip(ids, rows[::2], rows[1::2], strict=True)
        ]

    def _key(self, id_: str) -> str:
        return scripts.COLLECTION + owned(self._owner, id_)

    async def _call(self, script: str, id_: str, *arguments: Any) -> Any:
        with redis_errors():
            return await self._scripts[script](
                keys=[self._key(id_), owned(self._owner, scripts.IDS)], args=[id_, *arguments]
            )


def _unknown(id_: str) -> NotFound:
    return NotFound(f"no collection {id_!r}")


def _collection(id_: str, created: bytes, size: bytes, images: int) -> collection_pb2.Collection:
    collection = collection_pb2.Collection(id=id_, images=images, total_bytes=int(size))
    collection.create_time.FromMilliseconds(int(created))
    return collection
