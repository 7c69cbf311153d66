"""A network in torch as the backend that quick techniques know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from convlens.errors import FailedPrecondition
from convlens_models.backend import F32, Backend
from convlens_models.graphs.autodiff import ReluRule
from convlens_models.repository import StoredModel
from convlens_workers.techniques.base import FeatureNetwork


class TorchBackend(Backend):
    """Runs on the worker's device; knows plain gradients alone.

    Args:
        network: on `device`.
        stored: the version of the model that it is.
        device: where to compute.
    """

    def __init__(self, network: FeatureNetwork, stored: StoredModel, device: torch.device) -> None:
        self._network, self._stored, self._device = network, stored, device

    @property
    def stored(self) -> StoredModel:
        """The version of the model that it runs."""
        return self._stored

    def forward(self, images: F32, layers: Sequence[str]) -> dict[str, F32]:
        """The value of each layer, from one pass."""
        with torch.no_grad():
            values = self._network.taps(self._tensor(images), layers)
        return {name: _array(value) for name, value in values.items()}

    def gradient(self, images: F32, layer: str, cotangent: F32, rule: ReluRule) -> tuple[F32, F32]:
        """The layer's value, and the gradient of <value, cotangent> to the images."""
        if rule is not ReluRule.GRADIENT:
            raise FailedPrecondition(f"rule {rule.name}: must be GRADIENT in a job")
        pixels = self._tensor(images).requires_grad_()
        with torch.enable_grad():
            value = self._network.taps(pixels, [layer])[layer]
            (gradient,) = torch.autograd.grad((value * self._tensor(cotangent)).sum(), pixels)
        return _array(value), _array(gradient)

    def inner_gradient(self, images: F32, layer: str, cotangent: F32, wrt: str) -> tuple[F32, F32, F32]:
        """No technique of a job asks for it."""
        raise FailedPrecondition("gradients to inner layers are for quick calls")

    def with_weights(self, folder: Path) -> Backend:
        """No technique of a job asks for it."""
        raise FailedPrecondition("other weights are for quick calls")

    def close(self) -> None:
        """The network is the worker's, which keeps it."""

    def _tensor(self, array: F32) -> Tensor:
        return torch.from_numpy(np.array(array, np.float32)).to(self._device)


def _array(tensor: Tensor) -> F32:
    return tensor.detach().float().cpu().numpy()
