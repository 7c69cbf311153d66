"""The gateway of calls about collections: their index and their files, if this server has them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import platformdirs

from convlens.errors import FailedPrecondition
from convlens_server.collections.features import Shards
from convlens_server.identity import owner
from convlens_server.settings import ServerSettings
from convlens_workers.collections import CollectionFiles, CollectionIndex
from convlens_workers.jobs.connection import connect


class CollectionGateway:
    """The collections of the current caller; they need the Redis and the artifact store of jobs."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self._redis: Any = connect(settings.redis) if settings.redis else None

    @property
    def index(self) -> CollectionIndex:
        """The index of collections. Raises FailedPrecondition when this server was started without Redis."""
        if self._redis is None:
            text = "this server has no collections: CONVLENS_REDIS is empty"
            raise FailedPrecondition(text, reason="NO_LONG_LANE")
        return CollectionIndex(self._redis, self.settings.max_collection_images, owner())

    @property
    def files(self) -> CollectionFiles:
        """The files of the images, and of their features."""
        return self._shards.files.of(owner())

    @property
    def shards(self) -> Shards:
        """The lists of the images that each file of features is about."""
        return self._shards.of(self.files)

    @cached_property
    def _shards(self) -> Shards:
        return Shards(CollectionFiles(self.settings.artifacts_url()))

    @property
    def indexes(self) -> Path:
        """The folder of this server's own search indexes."""
        return self.settings.indexes or Path(platformdirs.user_cache_dir("convlens")) / "indexes"

    async def close(self) -> None:
        """Close the connections to Redis."""
        if self._redis is not None:
            await self._redis.aclose()
