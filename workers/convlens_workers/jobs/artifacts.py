"""The artifact store: a folder or an S3-compatible bucket that holds what is too large for Redis.

Objects lie under `<top>/<owner>/<kind>/`: requests, results and checkpoints of jobs under `operations/<id>/`,
images and features under `collections/<id>/`. They are named after their SHA-256, so that whoever writes one,
however late, can only write the same bytes again; an object that is named otherwise is never overwritten.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Set
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, from_url

from convlens.errors import DataLoss, FailedPrecondition, NotFound, Unavailable

PIECE_BYTES: Final = 1 << 20


class ArtifactStore:
    """Objects named by their content, at `url` (file:///folder, s3://bucket/prefix, ...).

    Args:
        url: where the store is.
        top: what the owners of the objects are: "operations" or "collections".

    Raises:
        FailedPrecondition: there can be no store.
    """

    def __init__(self, url: str, top: str = "operations") -> None:
        self._top = top
        parts = urlsplit(url)
        self._folder = Path(unquote(parts.path)) if parts.scheme == "file" else None
        try:
            self._store = (
                LocalStore(self._folder, mkdir=True, automatic_cleanup=True)
                if self._folder
                else from_url(url, config=_secrets(parts.scheme))
            )
        except (BaseError, OSError, ValueError) as error:
            reason = str(error).split("\n", 1)[0]
            raise FailedPrecondition(f"CONVLENS_ARTIFACTS: there can be no store: {reason}") from error

    def put(self, owner: str, kind: str, data: bytes | memoryview) -> str:
        """Store `data` whole or not at all, on the disk before this returns; gives its SHA-256."""
        digest = hashlib.sha256(data).hexdigest()
        self._put(self._key(owner, kind, digest), data, "overwrite")
        return digest

    def put_named(self, owner: str, kind: str, name: str, data: bytes | memoryview) -> bool:
        """As `put`, under a name that stands for the content; False where that is there, and stays."""
        try:
            self._put(self._key(owner, kind, name), data, "create")
        except AlreadyExistsError:
            return False
        return True

    def get(self, owner: str, kind: str, digest: str) -> bytes:
        """The object. Raises NotFound, or DataLoss when its bytes do not match `digest`."""
        data = self.get_named(owner, kind, digest)
        if hashlib.sha256(data).hexdigest() != digest:
            raise DataLoss(f"{self._key(owner, kind, digest)} does not match its digest")
        return data

    def get_named(self, owner: str, kind: str, name: str) -> bytes:
        """The object of that name, its bytes unchecked. Raises NotFound."""
        key = self._key(owner, kind, name)
        with _errors(key):
            return bytes(obstore.get(self._store, key).bytes())

    def copy(self, owner: str, kind: str, digest: str, to: str) -> None:
        """Give the owner `to` an object of another one; its bytes stay in the store. Raises NotFound."""
        key, target = self._key(owner, kind, digest), self._key(to, kind, digest)
        with _errors(key):
            obstore.copy(self._store, key, target)
            if self._folder:
                _sync(self._folder / target)

    def names(self, owner: str, kind: str) -> list[str]:
        """Names of all objects of a kind, in order."""
        entries = self._list(f"{self._top}/{owner}/{kind}")
        return sorted(entry["path"].rpartition("/")[2] for entry in entries)

    async def read(self, owner: str, digest: str, size: int, offset: int = 0) -> AsyncIterator[bytes]:
        """The bytes of a result from `offset` on, in pieces of 1 MiB; a read of the whole is checked.

        Raises:
            NotFound: no such object.
            DataLoss: size or digest are not what they should be.
        """
        key = self._key(owner, "artifacts", digest)
        with _errors(key):
            stored = (await obstore.head_async(self._store, key))["size"]
        if stored != size:
            raise DataLoss(f"{key} has {stored} bytes instead of {size}")
        read = hashlib.sha256()
        for start in range(offset, size, PIECE_BYTES):
            with _errors(key):
                length = min(PIECE_BYTES, size - start)
                piece = bytes(await obstore.get_range_async(self._store, key, start=start, length=length))
            read.update(piece)
            yield piece
        if offset == 0 and read.hexdigest() != digest:
            raise DataLoss(f"{key} does not match its digest")

    def drop(self, owner: str, kind: str, digest: str) -> None:
        """Remove one object; that it is gone already is no error."""
        self._remove([self._key(owner, kind, digest)])

    def drop_all(self, owner: str) -> None:
        """Remove all objects of an owner, and what killed writers have left of some."""
        self.keep(owner, ())

    def keep(self, owner: str, kept: Iterable[tuple[str, str]]) -> None:
        """As `drop_all`, but for the objects of these kinds and names."""
        keys = {self._key(owner, *each) for each in kept}
        place = f"{self._top}/{owner}"
        self._remove([entry["path"] for entry in self._list(place) if entry["path"] not in keys])
        if self._folder:
            with _errors(place), suppress(FileNotFoundError):
                _clear(self._folder / place, {self._folder / key for key in keys})

    def idle(self, since: timedelta, now: datetime) -> Iterator[str]:
        """Ids of the owners all of whose objects are older than `since`."""
        newest: dict[str, datetime] = {}
        for entry in self._list(self._top):
            owner = entry["path"].split("/")[1]
            newest[owner] = max(entry["last_modified"], newest.get(owner, entry["last_modified"]))
        return (owner for owner, modified in newest.items() if now - modified > since)

    def _put(self, key: str, data: bytes | memoryview, mode: Literal["create", "overwrite"]) -> None:
        with _errors(key, writing=True):
            obstore.put(self._store, key, data, mode=mode)
            if self._folder:
                _sync(self._folder / key)

    def _key(self, owner: str, kind: str, name: str) -> str:
        return f"{self._top}/{owner}/{kind}/{name}"

    def _list(self, prefix: str) -> list[obstore.ObjectMeta]:
        with _errors(prefix):
            return [entry for page in obstore.list(self._store, prefix) for entry in page]

    def _remove(self, keys: list[str]) -> None:
        for key in keys:
            with _errors(key), suppress(FileNotFoundError):
                obstore.delete(self._store, key)


def _secrets(scheme: str) -> Any:
    """Credentials of S3 that are files in the folder CONVLENS_SECRETS: aws_access_key_id, ..."""
    folder = os.environ.get("CONVLENS_SECRETS")
    files = Path(folder).glob("aws_*") if folder and scheme == "s3" else ()
    return {path.name: path.read_text().strip() for path in files}


def _clear(folder: Path, kept: Set[Path]) -> None:
    """Remove a folder's files but for those that are kept: unfinished ones, which no store lists."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            with suppress(OSError):  # It is not empty.
                path.rmdir()
        elif path not in kept:
            path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _sync(path: Path) -> None:
    for target, flags in ((path, os.O_RDONLY), (path.parent, os.O_RDONLY | os.O_DIRECTORY)):
        descriptor = os.open(target, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _errors(key: str, *, writing: bool = False) -> Iterator[None]:
    """Raise NotFound or Unavailable; who writes is told the latter where a folder is removed meanwhile."""
    try:
        yield
    except AlreadyExistsError:
        raise
    except (BaseError, OSError) as error:
        if isinstance(error, FileNotFoundError) and not writing:
            raise NotFound(f"the artifact store has no {key}") from error
        reason = str(error).split("\n", 1)[0]
        raise Unavailable(f"the artifact store failed at {key}: {reason}", retry_after=5.0) from error
