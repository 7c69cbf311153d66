"""Networks that are sent to a server: their files lie in a quarantine until they are proven.

Needs no torch, which is loaded in the process that looks at the files. The quarantine is a folder of the
repository whose name follows from what is added, as invisible as those of importers, so that whoever goes on
with an upload, on whatever server, finds what has come. A day later it is removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from convlens.errors import Cancelled, FailedPrecondition, InvalidArgument, NotFound
from convlens_models.importing.publish import ADDING, remove_left
from convlens_models.manifest import Manifest
from convlens_models.repository import ModelRepository, sha256

FILE_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}"
FILES: Final = "files"
LABELS: Final = "labels.tsv"
LOCK: Final = "lock"
GLANCE: Final = 0.1
"""Seconds between two looks at whether another server has ended."""
PUBLISHED: Final = "published"
"""File of a quarantine that says, as "name/version", what became of it."""
STYLE: Final = "fast_style"


class SentFile(NamedTuple):
    """A file that is sent: its name, its size in bytes and its SHA-256 as lower-case hex."""

    name: str
    bytes: int
    digest: str


class Upload:
    """The quarantine of one network.

    Args:
        root: folder of the repository.
        key: what tells this upload from all others.
        files: what is sent.

    Raises:
        InvalidArgument: names that are no names of files, or the same twice.
        FailedPrecondition: the repository cannot be written.
    """

    def __init__(self, root: Path, key: bytes, files: Sequence[SentFile]) -> None:
        names = [file.name for file in files]
        for place, name in enumerate(names):
            if not re.fullmatch(FILE_NAME, name) or name in names[:place]:
                allowed = "another name, of A-Z, a-z, 0-9, '.', '_' and '-', first a letter or digit"
                raise InvalidArgument.of(f"model.files[{place}].name", name, allowed)
        self._root, self._sent = root.absolute(), files
        self.folder = self._root / f"{ADDING}upload-{hashlib.sha256(key).hexdigest()[:32]}"
        with _writing():
            self._root.mkdir(parents=True, exist_ok=True)
            remove_left(self._root)
            (self.folder if self.published() else self.folder / FILES).mkdir(parents=True, exist_ok=True)
            os.utime(self.folder)  # Its day begins anew.

    def add(self, place: int, offset: int, data: bytes) -> int:
        """Store a piece of a file, unless it is there; returns how many bytes of the file are.

        Raises:
            InvalidArgument: no such file, bytes before it that are missing, or bytes beyond its end.
            FailedPrecondition: the repository cannot be written, or the upload has ended.
        """
        if place >= len(self._sent):
            raise InvalidArgument.of("piece.file", place, f"at most {len(self._sent) - 1}")
        if self.published() is not None:
            return offset + len(data)
        with _writing(), _begun(self.folder / FILES / self._sent[place].name) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            stored, end = file.seek(0, os.SEEK_END), offset + len(data)
            if offset > stored or end > self._sent[place].bytes:
                allowed = f"{stored}, as is stored, of {self._sent[place].bytes} bytes"
                raise InvalidArgument.of("piece.offset", f"{offset} and {len(data)} bytes", allowed)
            if end > stored:
                file.write(data[stored - offset :])
            return max(end, stored)

    def publish(self, add: Callable[[list[Path]], Manifest], stopped: Callable[[], bool]) -> Manifest:
        """What `add` makes of the files, which are removed; where that was made before, the same again.

        Raises:
            InvalidArgument: bytes are missing, or not those whose digest was told.
            ConvLensError: what `add` raises; the files are kept only where that is no fault of theirs.
            Cancelled: it was `stopped` while another server was at it.
        """
        with self._locked(stopped):
            if manifest := self.published():
                return manifest
            try:
                manifest = add(list(self._whole()))
            except InvalidArgument:
                shutil.rmtree(self.folder, ignore_errors=True)
                raise
            with _writing():
                shutil.rmtree(self.folder / FILES)
                (self.folder / PUBLISHED).write_text(f"{manifest.name}/{manifest.version}")
            return manifest

    def published(self) -> Manifest | None:
        """What has become of the upload, if it has been published and is still there."""
        try:
            name, _, version = (self.folder / PUBLISHED).read_text().partition("/")
            return ModelRepository(self._root).get(name, int(version)).manifest
        except FileNotFoundError:
            return None
        except NotFound:
            (self.folder / PUBLISHED).unlink(missing_ok=True)
            return None

    def _whole(self) -> Iterator[Path]:
        for place, sent in enumerate(self._sent):
            path = self.folder / FILES / sent.name
            stored = path.stat().st_size if path.exists() else 0
            if stored != sent.bytes:
                raise FailedPrecondition(
                    f"of {sent.name} {stored} of {sent.bytes} bytes have come: send the rest"
                )
            if (digest := sha256(path)) != sent.digest:
                raise InvalidArgument.of(
                    f"model.files[{place}].digest", sent.digest, f"{digest}, as of the bytes"
                )
            yield path

    @contextmanager
    def _locked(self, stopped: Callable[[], bool]) -> Iterator[None]:
        """One server at a time. Raises FailedPrecondition where the upload has ended elsewhere."""
        with _begun(self.folder / LOCK) as lock:
            while not _held(lock):
                if stopped():
                    raise Cancelled("adding the network was stopped")
                time.sleep(GLANCE)
            yield


def add_sent(
    root: Path,
    files: Sequence[Path],
    *,
    name: str,
    architecture: str,
    labels: str,
    onnx: dict[str, Any],
    **normalisation: Any,
) -> Manifest:
    """Add the network of the first of the `files` to the repository; in a process of its own.

    Args:
        architecture: whose weights it holds; "" for an ONNX file.
        labels: content of a file of class names; "" for none.
        onnx: what `add_onnx` takes beside the rest.
        normalisation: `mean` and `std`, three numbers each or None.

    Raises:
        FailedPrecondition: what importing takes is not installed.
        InvalidArgument: see `add_onnx`, `add_architecture`, `add_style`.
    """
    os.chdir(files[0].parent)  # Errors name a file as its owner does.
    file, listed = Path(files[0].name), Path("..", LABELS) if labels else None
    if listed:
        listed.write_text(labels, encoding="utf-8")
    try:
        if not architecture:
            from convlens_models.importing.onnx_import import add_onnx  # noqa: PLC0415

            return add_onnx(root, file, name, listed, **normalisation, **onnx)
        from convlens_models.importing.importer import add_architecture  # noqa: PLC0415
        from convlens_models.importing.style_import import add_style  # noqa: PLC0415
        from convlens_models.importing.weights import load_state  # noqa: PLC0415
    except ImportError as error:
        why = f"this server cannot import networks: it lacks {error.name or error} (the extra 'export')"
        raise FailedPrecondition(why) from error
    if architecture == STYLE:
        return add_style(root, load_state(file), name)
    return add_architecture(root, architecture, file, listed, name, **normalisation)


def _begun(path: Path) -> IO[bytes]:
    """A file of the quarantine. Raises FailedPrecondition where that is no more."""
    try:
        return path.open("ab")
    except FileNotFoundError:
        raise FailedPrecondition("the upload has ended meanwhile: begin it again") from None


def _held(lock: IO[bytes]) -> bool:
    """Whether the lock is ours now."""
    with suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


@contextmanager
def _writing() -> Iterator[None]:
    """Raises FailedPrecondition where files of the repository cannot be made."""
    try:
        yield
    except OSError as error:
        why = f"the model repository cannot be written: {error.strerror} ({error.filename})"
        raise FailedPrecondition(why, reason="REPOSITORY_READ_ONLY") from error
