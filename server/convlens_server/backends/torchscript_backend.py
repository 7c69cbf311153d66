"""Networks in TorchScript: the second backend, for models whose manifest asks for it (extra `torchscript`).

PyTorch has deprecated TorchScript; hosts that run it already can go on doing so. This is the one module of
the server that loads torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from convlens.errors import FailedPrecondition
from convlens_models.graphs.autodiff import ReluRule
from convlens_models.importing.torchscript import load
from convlens_models.repository import TORCHSCRIPT, StoredModel
from convlens_server.backends.base import F32
from convlens_server.request.cancellation import interruptible


class TorchScriptBackend:
    """Runs the traces in `model.ts`; gradients are autograd's.

    Args:
        stored: the version of the model.
        threads: threads of one pass; PyTorch has one number for the whole process.
    """

    def __init__(self, stored: StoredModel, threads: int) -> None:
        self.stored = stored
        torch.set_num_threads(threads)
        self._network = load(stored.file(TORCHSCRIPT))

    def forward(self, images: F32, layers: Sequence[str]) -> dict[str, F32]:
        """The value of each layer, from one pass."""
        with interruptible(_between_passes):
            return self._network.forward(images, layers)

    def gradient(self, images: F32, layer: str, cotangent: F32, rule: ReluRule) -> tuple[F32, F32]:
        """The layer's value, and the gradient of <value, cotangent> to the images."""
        with interruptible(_between_passes):
            return self._network.gradient(images, layer, cotangent, rule)

    def inner_gradient(self, images: F32, layer: str, cotangent: F32, wrt: str) -> tuple[F32, F32, F32]:
        """The values of `layer` and `wrt`, and the gradient of <value, cotangent> to the latter."""
        with interruptible(_between_passes):
            return self._network.inner_gradient(images, layer, cotangent, wrt)

    def with_weights(self, folder: Path) -> TorchScriptBackend:
        """Raise FailedPrecondition: the weights are inside `model.ts`."""
        name = self.stored.manifest.name
        raise FailedPrecondition(
            f"model {name!r} runs as TorchScript, whose weights cannot be replaced; "
            "add it to the repository without --torchscript"
        )

    def close(self) -> None:
        """Do nothing: all memory goes with this object."""


def _between_passes() -> None:
    """Do nothing: a pass of TorchScript cannot be stopped, and the next one is not begun."""
