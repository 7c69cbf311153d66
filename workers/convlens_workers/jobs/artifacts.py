"""The artifact store: a folder or an S3-compatible bucket that holds requests, results and checkpoints.

Objects of a job lie under `operations/<id>/` and are named after their SHA-256, so that whoever writes one,
however late, can only write the same bytes again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from convlens.errors import DataLoss, NotFound, Unavailable

Kind = Literal["request", "checkpoints", "artifacts"]
PIECE_BYTES: Final = 1 << 20


class ArtifactStore:
    """Objects named by their content, at `url` (file:///folder, s3://bucket/prefix, ...)."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._folder = Path(unquote(parts.path)) if parts.scheme == "file" else None
        self._store = (
            LocalStore(self._folder, mkdir=True, automatic_cleanup=True) if self._folder else from_url(url)
        )

    def put(self, operation: str, kind: Kind, data: bytes | memoryview) -> str:
        """Store `data` whole or not at all, on the disk before this returns; gives its SHA-256."""
        digest = hashlib.sha256(data).hexdigest()
        key = _key(operation, kind, digest)
        with _errors(key):
            obstore.put(self._store, key, data)
            if self._folder:
                _sync(self._folder / key)
        return digest

    def get(self, operation: str, kind: Kind, digest: str) -> bytes:
        """The object. Raises NotFound, or DataLoss when its bytes do not match `digest`."""
        key = _key(operation, kind, digest)
        with _errors(key):
            data = bytes(obstore.get(self._store, key).bytes())
        if hashlib.sha256(data).hexdigest() != digest:
            raise DataLoss(f"{key} does not match its digest")
        return data

    async def read(self, operation: str, digest: str, size: int, offset: int = 0) -> AsyncIterator[bytes]:
        """The bytes of a result from `offset` on, in pieces of 1 MiB; a read of the whole is checked.

        Raises:
            NotFound: no such object.
            DataLoss: size or digest are not what they should be.
        """
        key = _key(operation, "artifacts", digest)
        with _errors(key):
            stored = (await obstore.head_async(self._store, key))["size"]
        if stored != size:
            raise DataLoss(f"{key} has {stored} bytes instead of {size}")
        found = hashlib.sha256()
        for start in range(offset, size, PIECE_BYTES):
            with _errors(key):
                length = min(PIECE_BYTES, size - start)
                piece = bytes(await obstore.get_range_async(self._store, key, start=start, length=length))
            found.update(piece)
            yield piece
        if offset == 0 and found.hexdigest() != digest:
            raise DataLoss(f"{key} does not match its digest")

    def drop(self, operation: str, kind: Kind, digest: str) -> None:
        """Remove one object; that it is gone already is no error."""
        self._remove([_key(operation, kind, digest)])

    def drop_all(self, operation: str) -> None:
        """Remove everything of a job."""
        self._remove([entry["path"] for entry in self._list(f"operations/{operation}")])

    def idle(self, since: timedelta, now: datetime) -> Iterator[str]:
        """Ids of the jobs all of whose objects are older than `since`."""
        newest: dict[str, datetime] = {}
        for entry in self._list("operations"):
            operation = entry["path"].split("/")[1]
            newest[operation] = max(entry["last_modified"], newest.get(operation, entry["last_modified"]))
        return (operation for operation, modified in newest.items() if now - modified > since)

    def _list(self, prefix: str) -> list[obstore.ObjectMeta]:
        with _errors(prefix):
            return [entry for page in obstore.list(self._store, prefix) for entry in page]

    def _remove(self, keys: list[str]) -> None:
        for key in keys:
            with _errors(key):
                try:
                    obstore.delete(self._store, key)
                except FileNotFoundError:
                    continue


def _key(operation: str, kind: Kind, digest: str) -> str:
    return f"operations/{operation}/{kind}/{digest}"


def _sync(path: Path) -> None:
    for target, flags in ((path, os.O_RDONLY), (path.parent, os.O_RDONLY | os.O_DIRECTORY)):
        descriptor = os.open(target, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _errors(key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"the artifact store has no {key}") from error
    except (BaseError, OSError) as error:
        reason = str(error).split("\n", 1)[0]
        raise Unavailable(f"the artifact store failed at {key}: {reason}", retry_after=5.0) from error
