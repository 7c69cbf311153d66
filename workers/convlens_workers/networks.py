"""Networks kept on the device from one job to the next."""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Mapping

import torch

from convlens.errors import DataLoss
from convlens.v1 import model_pb2
from convlens_models.architectures import ARCHITECTURES
from convlens_models.manifest import Manifest
from convlens_models.network import Network, load_network
from convlens_models.repository import ModelRepository, StoredModel
from convlens_workers.jobs import models
from convlens_workers.onnx_network import OnnxNetwork


class Networks:
    """The `limit` networks used last, of `repository`, on `device`."""

    def __init__(self, repository: ModelRepository, device: torch.device, limit: int) -> None:
        self.repository = repository
        self._device = device
        self._limit = limit
        self._warm: OrderedDict[str, Network | OnnxNetwork] = OrderedDict()
        self._bound: Mapping[str, str] = {}

    def bind(self, bound: Mapping[str, str]) -> None:
        """From now on give of these "name/version" only networks with these digests.

        Raises:
            FailedPrecondition: one has another digest, reason MODEL_CHANGED.
            DataLoss: a file of one was overwritten.
        """
        self._bound = bound
        for key in bound:
            name, _, version = key.partition("/")
            self._stored(model_pb2.ModelRef(name=name, version=int(version)))

    def get(self, ref: model_pb2.ModelRef) -> tuple[Network | OnnxNetwork, Manifest]:
        """The network that `ref` names, loaded if need be; raises what the repository and `bind` raise."""
        stored = self._stored(ref)
        digest = stored.manifest.digest
        if digest not in self._warm:
            self._warm[digest] = self._load(stored)
        self._warm.move_to_end(digest)
        while len(self._warm) > self._limit:
            self._warm.popitem(last=False)
        return self._warm[digest], stored.manifest

    def _stored(self, ref: model_pb2.ModelRef) -> StoredModel:
        """The version, its files as their digests say; the repository reads only those that have changed."""
        stored = self.repository.get(ref.name, ref.version if ref.HasField("version") else None)
        models.check(stored.manifest, self._bound)
        try:
            for name in stored.manifest.files:
                stored.file(name)
        except DataLoss:
            self._warm.pop(stored.manifest.digest, None)  # What is mapped has changed with its file.
            raise
        return stored

    def _load(self, stored: StoredModel) -> Network | OnnxNetwork:
        """A torch module where the architecture is one of ours, else the graph."""
        built_in = stored.manifest.architecture in ARCHITECTURES
        return load_network(stored, self._device) if built_in else OnnxNetwork(stored)

    def clear(self) -> None:
        """Forget all networks, and give their memory back to the device."""
        self._warm.clear()
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
