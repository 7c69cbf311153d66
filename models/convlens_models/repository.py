"""The model repository: folders `<name>/<version>/` with a manifest, weights and graphs. Needs no torch.

The user's folder lies over the embedded one, which holds "patterns", the default model where the user's has
no "efficientnet_lite0". Nothing is trusted: names cannot leave the folder, neither can symbolic links or the
external data of a graph, and every file must match its digest in the manifest.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import onnx
import platformdirs
from numpy.typing import NDArray
from pydantic import ValidationError

from convlens.errors import DataLoss, NotFound
from convlens_models import tensors
from convlens_models.manifest import NAME_PATTERN, Manifest

PREFERRED_MODEL: Final = "efficientnet_lite0"
"""The default model of a repository that has it."""
EMBEDDED_MODEL: Final = "patterns"
"""The default model of all others."""
EMBEDDED: Final = Path(__file__).parent / "embedded"
FORWARD: Final = "forward.onnx"
WEIGHTS: Final = "weights.safetensors"
TORCHSCRIPT: Final = "model.ts"
MANIFEST: Final = "manifest.json"
SETTLED_NS: Final = 1_000_000_000
"""Age from which on a change to a folder is told from the next one by its time."""

log = logging.getLogger(__name__)


def default_root() -> Path:
    """`$CONVLENS_MODELS`, else a folder of the user's own."""
    return Path(os.environ.get("CONVLENS_MODELS") or Path(platformdirs.user_data_dir("convlens")) / "models")


State = tuple[int, int, int]
"""Of a file: time of the last change, size, inode. Another state is another content."""


@dataclass(frozen=True)
class StoredModel:
    """One version of a model on disk; files are read when asked for."""

    manifest: Manifest
    path: Path

    def file(self, name: str) -> Path:
        """Path of a file of this version whose digest was checked (once for each state of the file).

        Raises:
            NotFound: the manifest has no such file.
            DataLoss: it is absent, lies elsewhere, or does not match its digest.
        """
        if name not in self.manifest.files:
            raise NotFound(f"model {self.manifest.name}/{self.manifest.version} has no file {name!r}")
        path = (self.path / name).resolve()
        if Path(name).name != name or not path.is_relative_to(self.path.resolve().parent.parent):
            raise DataLoss(f"{self.path / name} leads out of the model repository")
        try:
            status = path.stat()
            digest = _sha256(path, status.st_mtime_ns, status.st_size, status.st_ino)
        except OSError as error:
            raise DataLoss(f"{path} cannot be read: {error}") from error
        if digest != self.manifest.files[name]:
            raise DataLoss(f"{path} does not match its digest in the manifest")
        return path

    def forward(self) -> onnx.ModelProto:
        """The forward graph: "image" (N, 3, H, W) in [0, 1] to every layer; the weights stay in their file.

        Raises:
            DataLoss: the file is damaged, or its external data is anything but the version's weights.
        """
        path = self.file(FORWARD)
        try:
            model = onnx.load(path, load_external_data=False)
        except Exception as error:  # protobuf's parser has no public error class of its own.
            raise DataLoss(f"{path} is not an ONNX graph: {error}") from error
        tensors.check_external(model, {WEIGHTS: self.file(WEIGHTS).stat().st_size})
        return model

    def weights(self) -> dict[str, NDArray[Any]]:
        """The weights by `state_dict` key, as read-only views of the mapped file."""
        return tensors.load(self.file(WEIGHTS))


class ModelRepository:
    """The models of the folder `root` (None: the embedded ones alone); every call looks at it anew."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root
        self._roots = (EMBEDDED,) if root is None else (root, EMBEDDED)

    @property
    def default(self) -> str:
        """Name of the model that an empty name means."""
        return PREFERRED_MODEL if self.versions(PREFERRED_MODEL) else EMBEDDED_MODEL

    def list(self, all_versions: bool = False) -> list[Manifest]:
        """The models by name, the newest version of each first; unreadable ones are logged and left out."""
        manifests = []
        for name in sorted({name for root in self._roots for name in _folders(root)}):
            for version in self.versions(name)[: None if all_versions else 1]:
                try:
                    manifests.append(self.get(name, version).manifest)
                except DataLoss as error:
                    log.warning("model %s/%d is left out: %s", name, version, error)
        return manifests

    def versions(self, name: str) -> Sequence[int]:
        """Versions of `name`, newest first; empty if there is no such model."""
        return [version for version in self._numbers(name) if self._place(name, version)]

    def get(self, name: str = "", version: int | None = None) -> StoredModel:
        """A version of a model, the newest by default; an empty name means the default model.

        Raises:
            NotFound: no such model or version.
            DataLoss: the manifest is damaged, or lies outside the repository.
        """
        name = name or self.default
        numbers = self._numbers(name)
        for wanted in numbers if version is None else {version}.intersection(numbers):
            if place := self._place(name, wanted):
                root, state = place
                return _stored(root, name, wanted, state)
        versions = self.versions(name)
        if not versions:
            known = ", ".join(manifest.name for manifest in self.list())
            raise NotFound(f"no model {name!r}; there are {known}")
        raise NotFound(f"model {name!r} has no version {version}; it has {sorted(versions)}")

    def _numbers(self, name: str) -> Sequence[int]:
        """What may be versions, newest first: folders, which may have no manifest yet."""
        if not re.match(NAME_PATTERN, name):
            return []
        return sorted(
            {version for root in self._roots for version in _numbered(f"{root}/{name}")}, reverse=True
        )

    def _place(self, name: str, version: int) -> tuple[Path, State] | None:
        """The uppermost root that has this version, and the state of its manifest."""
        for root in self._roots:
            if state := _state(f"{root}/{name}/{version}/{MANIFEST}"):
                return root, state
        return None


def _state(path: str) -> State | None:
    """The state of a file or folder; None if there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 - each call asks; `Path` takes several times as long.
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _numbered(folder: str) -> frozenset[int]:
    """The numbers that are folders within a folder, listed again whenever an entry has come or gone."""
    if not (state := _state(folder)):
        return frozenset()
    # Two changes may fall into one tick of the file system's clock, and the first listing between them.
    settled = time.time_ns() - state[0] > SETTLED_NS
    return _listed(folder, state) if settled else _listed.__wrapped__(folder, state)


@lru_cache(maxsize=128)
def _listed(folder: str, state: State) -> frozenset[int]:
    """As `_numbered`; the state says when to look again."""
    numbers = {int(name) for name in _folders(folder) if name.isdecimal() and str(int(name)) == name}
    return frozenset(numbers - {0})


@lru_cache(maxsize=32)
def _stored(root: Path, name: str, version: int, state: State) -> StoredModel:
    """The version with the manifest in its folder; the manifest's state says when to read it again."""
    path = root / name / str(version)
    if not (path / MANIFEST).resolve().is_relative_to(root.resolve()):
        raise DataLoss(f"{path} leads out of the model repository")
    try:
        manifest = Manifest.model_validate_json((path / MANIFEST).read_bytes())
    except (OSError, ValidationError) as error:
        raise DataLoss(f"{path / MANIFEST} is damaged: {error}") from error
    if (manifest.name, manifest.version) != (name, version):
        raise DataLoss(f"{path / MANIFEST} is that of {manifest.name}/{manifest.version}")
    return StoredModel(manifest, path)


def _folders(path: Path | str) -> Iterator[str]:
    """Names of the folders within a folder that a model or version may have."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(path) as entries:
        yield from (entry.name for entry in entries if entry.is_dir() and re.match(NAME_PATTERN, entry.name))


@lru_cache(maxsize=1024)
def _sha256(path: Path, mtime_ns: int, size: int, inode: int) -> str:
    """As `sha256`; the further arguments say when to read again."""
    return sha256(path)


def sha256(path: Path) -> str:
    """SHA-256 of a file as lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
