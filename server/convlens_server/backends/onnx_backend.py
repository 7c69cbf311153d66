"""Networks in ONNX Runtime: the default backend, without torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from convlens_models.graphs.autodiff import COTANGENT, IMAGE_GRADIENT, ReluRule, differentiate, gradient_name
from convlens_models.graphs.log_softmax import refined
from convlens_models.graphs.surgery import cut, opened, static
from convlens_models.manifest import INPUT
from convlens_models.repository import WEIGHTS, StoredModel
from convlens_models.runtime import ort
from convlens_server.backends.base import F32
from convlens_server.backends.cache import LruCache
from convlens_server.backends.providers import Compute
from convlens_server.request.cancellation import interruptible
from convlens_server.request.request_context import phase

Sessions = LruCache[tuple[Hashable, ...], ort.InferenceSession]
Sizes = tuple[int | None, int, int]

LARGE: Final = 3 * 2_000_000
"""Numbers in a batch beyond which memory is given back after the pass; to fault it in again is slow."""
BACK: Final = 3
"""A pass there and back takes about as long as so many there."""
TURN: Final = 4e8
"""Multiply-adds of a pass on a CPU, some 20 ms, before the next of which its thread lets shorter work by.
Passes over more images take as long an image, and make everybody else wait for them."""
GRAPH_BYTES: Final = 1 << 19
"""Bytes that a session takes beside its kernels, about: many for small layers would else weigh nothing."""


class OnnxBackend:
    """Runs graphs that are cut out of, or derived from, a model's forward graph.

    A session is built for each set of layers, and for each layer and ReLU rule. Images of the size that the
    model was made for get graphs with static sizes, single ones a static batch too, which are faster (fewer
    shape computations, pool gradients without indices). All other sizes share one dynamic graph, so that
    callers who send many sizes cannot fill the cache.

    The weights are mapped once, here: sessions that are built later are of this version too, whatever lies in
    its folder by then.

    Args:
        stored: the version of the model.
        sessions: the cache of all models; a session weighs the bytes that it holds of its own.
        compute: the hardware that passes run on; each number of threads has sessions of its own.
        weights: folder of the weights; by default the model's own.
    """

    def __init__(
        self, stored: StoredModel, sessions: Sessions, compute: Compute, weights: Path | None = None
    ) -> None:
        self.stored = stored
        self._sessions = sessions
        self._compute = compute
        self._folder = weights or stored.path
        self._weights = np.memmap(self._folder / WEIGHTS, np.uint8, mode="r")
        self._graph = opened(stored.forward())

    def forward(self, images: F32, layers: Sequence[str]) -> dict[str, F32]:
        """The value of each layer, from one pass, or from several over some of the images each."""
        turns = self._turns(images, 1)
        if len(turns) > 1:
            found = [self.forward(images[turn], layers) for turn in turns]
            return {layer: np.concatenate([values[layer] for values in found]) for layer in layers}
        tensors = [self._tensor(layer) for layer in layers]
        wanted, sizes = tuple(sorted(set(tensors))), self._static_sizes(images)

        def build() -> onnx.ModelProto:
            part = cut(self._graph, wanted)
            return static(part, sizes) if sizes else part

        session = self._session(("forward", wanted, sizes), build)
        values = dict(zip(wanted, _run(session, wanted, {INPUT: images}), strict=True))
        return {layer: values[tensor] for layer, tensor in zip(layers, tensors, strict=True)}

    def gradient(self, images: F32, layer: str, cotangent: F32, rule: ReluRule) -> tuple[F32, F32]:
        """The layer's value, and the gradient of <value, cotangent> to the images."""
        turns = self._turns(images, BACK)
        if len(turns) > 1:
            pairs = [self.gradient(images[turn], layer, cotangent[turn], rule) for turn in turns]
            value, gradient = (np.concatenate(column) for column in zip(*pairs, strict=True))
            return value, gradient
        tensor, sizes = self._tensor(layer), self._static_sizes(images)

        def build() -> onnx.ModelProto:
            return differentiate(self._graph, tensor, rule, sizes)

        session = self._session(("gradient", tensor, rule, sizes), build)
        feeds = {INPUT: images, COTANGENT: cotangent}
        value, gradient = _run(session, (tensor, IMAGE_GRADIENT), feeds)
        return value, gradient

    def inner_gradient(self, images: F32, layer: str, cotangent: F32, wrt: str) -> tuple[F32, F32, F32]:
        """The values of `layer` and `wrt`, and the gradient of <value, cotangent> to the latter."""
        turns = self._turns(images, BACK)
        if len(turns) > 1:
            rows = [self.inner_gradient(images[turn], layer, cotangent[turn], wrt) for turn in turns]
            value, at, gradient = (np.concatenate(column) for column in zip(*rows, strict=True))
            return value, at, gradient
        tensor, inner, sizes = self._tensor(layer), self._tensor(wrt), self._static_sizes(images)

        def build() -> onnx.ModelProto:
            return differentiate(self._graph, tensor, ReluRule.GRADIENT, sizes, inner)

        session = self._session(("gradient", tensor, inner, sizes), build)
        feeds = {INPUT: images, COTANGENT: cotangent}
        value, at, gradient = _run(session, (tensor, inner, gradient_name(inner)), feeds)
        return value, at, gradient

    def with_weights(self, folder: Path) -> OnnxBackend:
        """The same graphs over the weights in `folder`, with sessions that go when it goes."""
        return OnnxBackend(self.stored, LruCache(math.inf), self._compute, folder)

    def close(self) -> None:
        """Drop the sessions; what still runs on this backend builds its own, which go when it goes."""
        shared, self._sessions = self._sessions, LruCache(math.inf)
        shared.discard(lambda key: key[0] is self)

    def _turns(self, images: F32, times: int) -> list[slice]:
        """Ranges of the images that one pass takes each: on a CPU few, so that it is short, on a GPU all.

        Args:
            times: the cost of the pass, as so many passes forward.
        """
        count, _, height, width = images.shape
        if self._compute.on_gpu:
            return [slice(0, count)]
        manifest = self.stored.manifest
        cost = times * manifest.multiply_adds * height * width / manifest.input_size**2
        size = max(1, int(TURN / max(1.0, cost)))
        return [slice(start, start + size) for start in range(0, max(1, count), size)]

    def _tensor(self, layer: str) -> str:
        return self.stored.manifest.layer(layer).tensor

    def _static_sizes(self, images: F32) -> Sizes | None:
        count, _, height, width = images.shape
        side = self.stored.manifest.input_size
        return (1 if count == 1 else None, height, width) if (height, width) == (side, side) else None

    def _session(
        self, graph: tuple[Hashable, ...], build: Callable[[], onnx.ModelProto]
    ) -> ort.InferenceSession:
        sessions, threads = self._sessions, self._compute.threads()

        def open_session() -> tuple[ort.InferenceSession, float]:
            model = refined(build())
            options = _options(self._folder, threads)
            _share_weights(options, model, self._weights)
            session = ort.InferenceSession(
                model.SerializeToString(), options, providers=list(self._compute.providers)
            )
            own = sum(_own_bytes(tensor) for tensor in model.graph.initializer)
            return self._compute.check(session), own + GRAPH_BYTES

        session = sessions.get((self, threads, *graph), open_session)
        if sessions is not self._sessions:  # Closed meanwhile, maybe before this session was kept.
            sessions.discard(lambda key: key[0] is self)
        return session


def _options(folder: Path, threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    _share_arena()
    entries = {
        "session.model_external_initializers_file_folder_path": str(folder.resolve()),
        # Weights go when the session goes, the memory of values stays for the next pass of any session.
        "session.use_env_allocators": "1",
        "session.use_device_allocator_for_initializers": "1",
        # Packed matrices are a copy for each session (VGG-16: 0.5 GB); unpacked ones stay in the mapped file.
        "session.disable_prepacking": "1",
        # Threads that spin between the passes of one session would take the CPU from those of others.
        "session.intra_op.allow_spinning": "0",
    }
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    return options


def _share_weights(options: ort.SessionOptions, model: onnx.ModelProto, weights: NDArray[np.uint8]) -> None:
    """Have a session use the mapped weights as they lie there, rather than open their file."""
    names, values = [], []
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        where = {item.key: item.value for item in tensor.external_data}
        begin, dtype = int(where.get("offset", 0)), onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        flat = weights[begin : begin + int(where["length"])].view(dtype)
        names.append(tensor.name)
        values.append(ort.OrtValue.ortvalue_from_numpy(flat.reshape(tuple(tensor.dims))))
    if names:
        options.add_external_initializers(names, values)


@cache
def _share_arena() -> None:
    """One arena for the values of all sessions: as large as what runs at once, not as what ever ran."""
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg({"arena_extend_strategy": 1}))


def _run(
    session: ort.InferenceSession, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]]
) -> list[Any]:
    """One pass, which stops where it is when the caller leaves."""
    options = ort.RunOptions()
    if feeds[INPUT].size > LARGE:
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def stop() -> None:
        options.terminate = True

    with phase("compute"), interruptible(stop):
        results: list[Any] = session.run(list(outputs), dict(feeds), options)
    return results


def _own_bytes(tensor: onnx.TensorProto) -> int:
    """The bytes of a tensor that a session copies: of kernels, into its own layout, but not of matrices."""
    itemsize = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return math.prod(tensor.dims) * itemsize if len(tensor.dims) > 2 else 0
