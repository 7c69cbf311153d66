"""Networks that came as ONNX graphs: they have no torch module, but torch differentiates through them.

    taps = OnnxNetwork(stored).taps(images, ["relu1", "relu2"])
    torch.autograd.grad(taps["relu1"].sum() + taps["relu2"].square().sum(), images)

Values are those of the stored graph, gradients those of the graphs that `convlens_models.graphs.autodiff`
derives from it for the server too; both by ONNX Runtime, on the CPU.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from convlens_models.graphs.autodiff import COTANGENT, IMAGE_GRADIENT, differentiate
from convlens_models.graphs.log_softmax import refined
from convlens_models.graphs.surgery import average_pooled, cut, flattened, leaky, opened
from convlens_models.manifest import INPUT
from convlens_models.repository import StoredModel
from convlens_models.runtime import ort

KEPT: Final = 4
"""The number of sessions kept: values and gradients, at the present size and at the one before."""
ALL: Final = "all_layers"
SLOPE: Final = 0.01

F32 = NDArray[np.float32]


class OnnxNetwork:
    """A stored graph as a network that autograd goes through, once: the gradient has no gradient.

    Args:
        stored: the version of the model.
        graph: in place of its own.
    """

    def __init__(self, stored: StoredModel, graph: onnx.ModelProto | None = None) -> None:
        self._stored = stored
        self._graph = self._differentiated = graph or opened(stored.forward())
        self._sessions: OrderedDict[tuple[Any, ...], ort.InferenceSession] = OrderedDict()

    def taps(self, images: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
        """Values of `layers` for images (N, 3, H, W) in [0, 1], on their device, within the autograd graph.

        Raises:
            InvalidArgument: a layer is none of the network's.
        """
        names = list(dict.fromkeys(layers))
        tensors = [self._stored.manifest.layer(name).tensor for name in names]
        wanted = tuple(dict.fromkeys(tensors))
        values = dict(zip(wanted, _Values.apply(images, self, wanted), strict=True))  # type: ignore[no-untyped-call]
        return {name: values[tensor] for name, tensor in zip(names, tensors, strict=True)}

    @contextmanager
    def redirected(self) -> Iterator[None]:
        """Within it, gradients get through ReLUs that are closed everywhere: 0.01 of them, through all.

        Values stay as they are.
        """
        self._differentiated = leaky(self._graph, SLOPE)
        try:
            yield
        finally:
            self._differentiated = self._graph

    def average_pooled(self, factor: float = 1.0, power: int = 1) -> OnnxNetwork:
        """The same with average pools, with `power` 2 root mean squares, times `factor`, for max pools."""
        return OnnxNetwork(self._stored, average_pooled(self._graph, factor, power))

    def values(self, images: F32, wanted: tuple[str, ...]) -> list[F32]:
        """The values of the graph's tensors `wanted`."""
        session = self._session(("values", wanted), lambda: cut(self._graph, wanted))
        return session.run(wanted, {INPUT: images})  # type: ignore[no-any-return]

    def gradient(self, images: F32, wanted: tuple[str, ...], cotangents: Sequence[F32]) -> F32:
        """The gradient of sum <value, cotangent> over `wanted` with respect to the images."""
        size, graph = images.shape[2:], self._differentiated

        def build() -> onnx.ModelProto:
            if len(wanted) == 1:
                return differentiate(graph, wanted[0], shape=(None, *size))
            return differentiate(flattened(graph, wanted, ALL), ALL, shape=(None, *size))

        session = self._session(("gradient", wanted, size, graph is self._graph), build)
        cotangent = cotangents[0] if len(wanted) == 1 else np.concatenate([_flat(c) for c in cotangents], 1)
        return np.asarray(session.run([IMAGE_GRADIENT], {INPUT: images, COTANGENT: cotangent})[0])

    def _session(self, key: tuple[Any, ...], build: Callable[[], onnx.ModelProto]) -> ort.InferenceSession:
        if key not in self._sessions:
            options = ort.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            options.log_severity_level = 3
            folder = str(self._stored.path.resolve())
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
            providers = ["CPUExecutionProvider"]
            model = refined(build()).SerializeToString()
            self._sessions[key] = ort.InferenceSession(model, options, providers)
        self._sessions.move_to_end(key)
        while len(self._sessions) > KEPT:
            self._sessions.popitem(last=False)
        return self._sessions[key]


class _Values(torch.autograd.Function):
    """Values of a graph; backwards, its gradient graph, which computes the values that it needs anew."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, network: OnnxNetwork, wanted: tuple[str, ...]
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(images)
        ctx.network, ctx.wanted = network, wanted
        return tuple(_tensor(value, images) for value in network.values(_array(images), wanted))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None, None]:
        (images,) = ctx.saved_tensors
        arrays = [_array(cotangent) for cotangent in cotangents]
        return _tensor(ctx.network.gradient(_array(images), ctx.wanted, arrays), images), None, None


def _array(tensor: Tensor) -> F32:
    return tensor.detach().float().cpu().contiguous().numpy()


def _tensor(array: F32, like: Tensor) -> Tensor:
    return torch.from_numpy(array).to(like)


def _flat(value: F32) -> F32:
    return value.reshape(len(value), -1)
