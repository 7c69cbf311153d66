"""The model repository: folders `<name>/<version>/` with a manifest, weights and graphs. Needs no torch.

The user's folder lies over the embedded one, which holds the default model, "patterns". Nothing is trusted:
names cannot leave the folder, neither can symbolic links or the external data of a graph, and every file must
match its digest in the manifest.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
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

DEFAULT_MODEL: Final = "patterns"
EMBEDDED: Final = Path(__file__).parent / "embedded"
FORWARD: Final = "forward.onnx"
WEIGHTS: Final = "weights.safetensors"
TORCHSCRIPT: Final = "model.ts"
MANIFEST: Final = "manifest.json"

log = logging.getLogger(__name__)


def default_root() -> Path:
    """`$CONVLENS_MODELS`, else a folder of the user's own."""
    return Path(os.environ.get("CONVLENS_MODELS") or Path(platformdirs.user_data_dir("convlens")) / "models")


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
            found = _sha256(path, status.st_mtime_ns, status.st_size, status.st_ino)
        except OSError as error:
            raise DataLoss(f"{path} cannot be read: {error}") from error
        if found != self.manifest.files[name]:
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

    def list(self, all_versions: bool = False) -> list[Manifest]:
        """The models by name, the newest version of each first; unreadable ones are logged and left out."""
        found = []
        for name in sorted({path.name for root in self._roots() for path in _folders(root)}):
            for version in self.versions(name)[: None if all_versions else 1]:
                try:
                    found.append(self.get(name, version).manifest)
                except DataLoss as error:
                    log.warning("model %s/%d is left out: %s", name, version, error)
        return found

    def versions(self, name: str) -> Sequence[int]:
        """Versions of `name`, newest first; empty if there is no such model."""
        if not re.match(NAME_PATTERN, name):
            return []
        found = {
            int(path.name)
            for root in self._roots()
            for path in _folders(root / name)
            if path.name.isdecimal() and str(int(path.name)) == path.name and (path / MANIFEST).exists()
        }
        return sorted(found - {0}, reverse=True)

    def get(self, name: str = DEFAULT_MODEL, version: int | None = None) -> StoredModel:
        """A version of a model, the newest by default; an empty name means the default model.

        Raises:
            NotFound: no such model or version.
            DataLoss: the manifest is damaged, or lies outside the repository.
        """
        name = name or DEFAULT_MODEL
        versions = self.versions(name)
        if not versions:
            known = ", ".join(manifest.name for manifest in self.list())
            raise NotFound(f"no model {name!r}; there are {known}")
        if version is not None and version not in versions:
            raise NotFound(f"model {name!r} has no version {version}; it has {sorted(versions)}")
        wanted = version or versions[0]
        for root in self._roots():
            if (root / name / str(wanted) / MANIFEST).exists():
                return _open(root, name, wanted)
        raise NotFound(f"version {wanted} of model {name!r} has just gone")

    def _roots(self) -> Iterator[Path]:
        if self.root is not None and self.root.is_dir():
            yield self.root
        yield EMBEDDED


def _open(root: Path, name: str, version: int) -> StoredModel:
    path = root / name / str(version)
    try:
        status = (path / MANIFEST).stat()
        manifest = _manifest(root, path / MANIFEST, status.st_mtime_ns, status.st_size, status.st_ino)
    except (OSError, ValidationError) as error:
        raise DataLoss(f"{path / MANIFEST} is damaged: {error}") from error
    if (manifest.name, manifest.version) != (name, version):
        raise DataLoss(f"{path / MANIFEST} is that of {manifest.name}/{manifest.version}")
    return StoredModel(manifest, path)


@lru_cache(maxsize=32)
def _manifest(root: Path, path: Path, mtime_ns: int, size: int, inode: int) -> Manifest:
    """The manifest in a file; the further arguments say when to read again."""
    if not path.resolve().is_relative_to(root.resolve()):
        raise DataLoss(f"{path.parent} leads out of the model repository")
    return Manifest.model_validate_json(path.read_bytes())


def _folders(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (
            child for child in path.iterdir() if child.is_dir() and re.match(NAME_PATTERN, child.name)
        )


@lru_cache(maxsize=1024)
def _sha256(path: Path, mtime_ns: int, size: int, inode: int) -> str:
    """As `sha256`; the further arguments say when to read again."""
    return sha256(path)


def sha256(path: Path) -> str:
    """SHA-256 of a file as lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
