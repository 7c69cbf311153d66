"""The models that the server has loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from convlens.v1 import model_pb2
from convlens_models.repository import ModelRepository, StoredModel
from convlens_server.engines.base import Engine
from convlens_server.engines.cache import LruCache
from convlens_server.engines.onnx_engine import OnnxEngine, Sessions
from convlens_server.engines.providers import Compute


class LoadedModels:
    """Engines by model and version: loaded at the first call, again when the model on disk is another one.

    Args:
        repository: where the models are.
        compute: what passes run on.
        session_bytes: what all ONNX Runtime sessions together may hold of their own.
        max_models: models that are kept loaded; the longest unused one is unloaded first.
    """

    def __init__(
        self, repository: ModelRepository, compute: Compute, *, session_bytes: float, max_models: int
    ) -> None:
        self.repository = repository
        self.sessions: Sessions = LruCache(session_bytes)
        self._compute = compute
        self._engines: LruCache[tuple[str, int], Engine] = LruCache(max_models, lambda engine: engine.close())

    def get(self, ref: model_pb2.ModelRef) -> Engine:
        """The engine of a model; the newest version unless the reference says which.

        Raises:
            NotFound: no such model or version.
            DataLoss: a file of it does not match its digest.
        """
        stored = self.repository.get(ref.name, ref.version if ref.HasField("version") else None)
        key = (stored.manifest.name, stored.manifest.version)
        engine = self._engines.get(key, lambda: (self._load(stored), 1))
        if engine.stored.manifest.digest == stored.manifest.digest:
            return engine
        self.unload(*key)
        return self._engines.get(key, lambda: (self._load(stored), 1))

    def unload(self, name: str, version: int) -> None:
        """Free the memory of a model; the next call loads it again."""
        self._engines.discard(lambda key: key == (name, version))

    def close(self) -> None:
        """Unload everything."""
        self._engines.discard(lambda _: True)

    def _load(self, stored: StoredModel) -> Engine:
        return ENGINES[stored.manifest.engine](self, stored)

    def _onnx(self, stored: StoredModel) -> Engine:
        return OnnxEngine(stored, self.sessions, self._compute)

    def _torchscript(self, stored: StoredModel) -> Engine:
        # Loads torch, which this process must not need otherwise.
        from convlens_server.engines.torchscript_engine import TorchScriptEngine  # noqa: PLC0415

        return TorchScriptEngine(stored, self._compute.threads())


ENGINES: Final[Mapping[str, Callable[[LoadedModels, StoredModel], Engine]]] = {
    "onnx": LoadedModels._onnx,
    "torchscript": LoadedModels._torchscript,
}
