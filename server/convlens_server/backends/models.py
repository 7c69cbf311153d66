"""The models that the server has loaded."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from convlens.errors import DataLoss, NotFound
from convlens.v1 import model_pb2
from convlens_models.repository import ModelRepository, StoredModel
from convlens_server.backends.base import Backend
from convlens_server.backends.batching import Batcher
from convlens_server.backends.cache import LruCache
from convlens_server.backends.onnx_backend import OnnxBackend, Sessions
from convlens_server.backends.providers import Compute
from convlens_server.settings import ServerSettings

REPLACEMENT_TIME: Final = 0.5
"""Seconds that a loaded model may be absent or incomplete on disk while somebody replaces it."""
RETRY_INTERVAL: Final = 0.01
"""Seconds between two attempts to load a model that is being replaced."""

Key = tuple[str, int, str]


class Loaded(NamedTuple):
    """A version of a model in memory.

    Attributes:
        stored: the version.
        sessions: the number of sessions that are kept ready for it.
        bytes: the bytes that these hold of their own.
    """

    stored: StoredModel
    sessions: int
    bytes: float


class LoadedModels:
    """Backends by model and version: loaded at the first call, again when the model on disk is another one.

    A call keeps the backend that it got, which goes on computing what it was loaded from, whatever is
    unloaded or replaced meanwhile.

    Args:
        repository: the folder of the models.
        compute: the hardware that passes run on.
        settings: say how many models are kept loaded, of which the longest unused one is unloaded first, and
            how many MiB all ONNX Runtime sessions together may hold of their own.
    """

    def __init__(self, repository: ModelRepository, compute: Compute, settings: ServerSettings) -> None:
        self.repository = repository
        self.sessions: Sessions = LruCache(settings.session_megabytes * (1 << 20))
        self._compute = compute
        self._backends: LruCache[Key, Backend] = LruCache(
            settings.max_models, lambda backend: backend.close()
        )

    def get(self, ref: model_pb2.ModelRef) -> Backend:
        """The backend of a model; the newest version unless the reference says which; blocks.

        Raises:
            NotFound: no such model or version.
            DataLoss: a file of it does not match its digest.
        """
        until = time.monotonic() + REPLACEMENT_TIME
        while True:
            try:
                return self._get(ref)
            except (NotFound, DataLoss):
                if not self._matching(ref):
                    raise
                if time.monotonic() > until:
                    self.unload(ref)
                    raise
            time.sleep(RETRY_INTERVAL)

    def unload(self, ref: model_pb2.ModelRef) -> list[Loaded]:
        """Free a version, or all of a model, and return what is gone; the next call loads it again."""
        keys = self._matching(ref)
        gone = [item for item in self.loaded() if _key(item.stored) in keys]
        self._backends.discard(keys.__contains__)
        return gone

    def loaded(self) -> list[Loaded]:
        """The versions that are in memory, in the order of names and versions."""
        weights: dict[Key, list[float]] = {}
        for (backend, *_), _, weight in self.sessions.held():
            if isinstance(backend, OnnxBackend):
                weights.setdefault(_key(backend.stored), []).append(weight)
        models = [
            Loaded(backend.stored, len(weights.get(key, ())), sum(weights.get(key, ())))
            for key, backend, _ in self._backends.held()
        ]
        return sorted(models, key=lambda model: _key(model.stored))

    def close(self) -> None:
        """Unload all models, and free the memory of their sessions."""
        self._backends.discard(lambda _: True)

    def _get(self, ref: model_pb2.ModelRef) -> Backend:
        stored = self.repository.get(ref.name, ref.version if ref.HasField("version") else None)
        return self._backends.get(_key(stored), lambda: (self._load(stored), 1))

    def _load(self, stored: StoredModel) -> Backend:
        backend = BACKENDS[stored.manifest.engine](self, stored)
        for name in stored.manifest.files:  # Nobody has replaced them between the check and the reading.
            stored.file(name)
        new = _key(stored)
        self._backends.discard(lambda key: key[:2] == new[:2] and key != new)
        return backend

    def _matching(self, ref: model_pb2.ModelRef) -> set[Key]:
        name, versioned = ref.name or self.repository.default, ref.HasField("version")
        keys = (key for key, _, _ in self._backends.held())
        return {key for key in keys if key[0] == name and (not versioned or key[1] == ref.version)}

    def _onnx(self, stored: StoredModel) -> Backend:
        backend, how = OnnxBackend(stored, self.sessions, self._compute), stored.manifest.batching
        return Batcher(backend, how) if how and self._compute.batching else backend

    def _torchscript(self, stored: StoredModel) -> Backend:
        # Loads torch, which this process must not need otherwise.
        from convlens_server.backends.torchscript_backend import TorchScriptBackend  # noqa: PLC0415

        return TorchScriptBackend(stored, self._compute.threads())


def _key(stored: StoredModel) -> Key:
    return stored.manifest.name, stored.manifest.version, stored.manifest.digest


BACKENDS: Final[Mapping[str, Callable[[LoadedModels, StoredModel], Backend]]] = {
    "onnx": LoadedModels._onnx,
    "torchscript": LoadedModels._torchscript,
}
