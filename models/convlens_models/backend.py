"""The protocol by which quick techniques use a network, whatever runs it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from convlens_models.graphs.autodiff import ReluRule
from convlens_models.repository import StoredModel

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


class Backend(Protocol):
    """A loaded network; every method may be called from several threads at once.

    `images` are float32 (N, 3, H, W), RGB in [0, 1]: normalisation is inside the network.
    """

    @property
    def stored(self) -> StoredModel:
        """The version of the model that it runs."""

    def forward(self, images: F32, layers: Sequence[str]) -> dict[str, F32]:
        """The value of each layer, (N, C, H', W') or (N, C), from one pass."""

    def gradient(self, images: F32, layer: str, cotangent: F32, rule: ReluRule) -> tuple[F32, F32]:
        """The layer's value, and the gradient of <value, cotangent> to the images, (N, 3, H, W).

        Args:
            cotangent: of the shape of the layer's value; a one-hot makes it the gradient of one unit.
            rule: how ReLUs pass the signal back.
        """

    def inner_gradient(self, images: F32, layer: str, cotangent: F32, wrt: str) -> tuple[F32, F32, F32]:
        """The values of `layer` and of the earlier layer `wrt`, and the gradient of <value, cotangent> to it.

        Raises:
            InvalidArgument: `layer` does not depend on `wrt`.
        """

    def with_weights(self, folder: Path) -> Backend:
        """The same network with the weights of another `weights.safetensors`, in `folder`.

        The file must have the layout of the model's own. It must not change while the backend is in use.

        Raises:
            FailedPrecondition: this backend has its weights elsewhere.
        """

    def close(self) -> None:
        """Free the memory of the network; a call after this loads it again."""
