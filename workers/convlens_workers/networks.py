"""Networks kept on the device from one job to the next."""

from __future__ import annotations

import gc
from collections import OrderedDict

import torch

from convlens.v1 import model_pb2
from convlens_models.architectures import ARCHITECTURES
from convlens_models.manifest import Manifest
from convlens_models.network import Network, load_network
from convlens_models.repository import ModelRepository, StoredModel
from convlens_workers.onnx_network import OnnxNetwork


class Networks:
    """The `limit` networks used last, of `repository`, on `device`."""

    def __init__(self, repository: ModelRepository, device: torch.device, limit: int) -> None:
        self.repository = repository
        self._device = device
        self._limit = limit
        self._warm: OrderedDict[str, Network | OnnxNetwork] = OrderedDict()

    def get(self, ref: model_pb2.ModelRef) -> tuple[Network | OnnxNetwork, Manifest]:
        """The network that `ref` names, loaded if need be; raises what the repository raises."""
        stored = self.repository.get(ref.name, ref.version if ref.HasField("version") else None)
        digest = stored.manifest.digest
        if digest not in self._warm:
            self._warm[digest] = self._load(stored)
        self._warm.move_to_end(digest)
        while len(self._warm) > self._limit:
            self._warm.popitem(last=False)
        return self._warm[digest], stored.manifest

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
