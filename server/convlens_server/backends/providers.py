"""The execution providers of ONNX Runtime: CUDA where it works, and else the CPU, by the same code."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any, Final

from onnx import TensorProto, helper

from convlens.errors import FailedPrecondition
from convlens_models.runtime import ort
from convlens_server.settings import ServerSettings

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
Provider = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Compute:
    """The hardware that passes of networks run on.

    Attributes:
        threads: tells how many CPU threads the next pass may use.
        providers: execution providers of ONNX Runtime, best first.
        demanded: whether a session that cannot use the first of them is an error.
        batching: whether concurrent calls of models whose manifest says how become one pass.
    """

    threads: Callable[[], int]
    providers: Sequence[Provider] = ((CPU, {}),)
    demanded: bool = False
    batching: bool = False

    @classmethod
    def of(
        cls, settings: ServerSettings, providers: Sequence[Provider], threads: Callable[[], int]
    ) -> Compute:
        """The hardware as the settings ask for it; by default batches are formed if passes run on a GPU."""
        batching = settings.batching == "on" or (settings.batching == "auto" and on_gpu(providers))
        return cls(threads, providers, settings.device.startswith("cuda"), batching)

    @property
    def on_gpu(self) -> bool:
        """Whether passes run on a GPU."""
        return on_gpu(self.providers)

    def check(self, session: ort.InferenceSession) -> ort.InferenceSession:
        """The session. Raises FailedPrecondition when it has fallen back from what is demanded."""
        first = self.providers[0][0]
        if self.demanded and first not in session.get_providers():
            raise FailedPrecondition(f"ONNX Runtime could not use {first}, which is demanded", field="device")
        return session


log = logging.getLogger("convlens.server")


def on_gpu(providers: Sequence[Provider]) -> bool:
    """Whether passes run on a GPU where these are the providers, best first."""
    return providers[0][0] == CUDA


def choose(settings: ServerSettings, check: Callable[[Provider], None] | None = None) -> list[Provider]:
    """The execution providers for the device that the settings name, best first.

    Args:
        settings: name the device, and the MiB of its memory that values may take.
        check: raises FailedPrecondition for a provider that does not work; by default it is tried.

    Raises:
        FailedPrecondition: CUDA is demanded, and does not work here.
    """
    kind, _, ordinal = settings.device.partition(":")
    if kind == "cpu":
        return [(CPU, {})]
    options = {"device_id": int(ordinal or 0), "arena_extend_strategy": "kSameAsRequested"}
    # The exhaustive search, the default, would be made again for every size of batch.
    options["cudnn_conv_algo_search"] = "HEURISTIC"
    memory = settings.device_megabytes << 20
    cuda = (CUDA, options | ({"gpu_mem_limit": memory} if memory else {}))
    try:
        (check or try_out)(cuda)
    except FailedPrecondition as error:
        if kind == "cuda":
            raise FailedPrecondition(f"device = {settings.device!r}: {error}", field="device") from error
        log.info("computing on the CPU: %s", error)
        return [(CPU, {})]
    return [cuda, (CPU, {})]


def try_out(provider: Provider) -> None:
    """Open a session. Raises FailedPrecondition if the provider, a library or the driver is missing."""
    name, _ = provider
    if name not in ort.get_available_providers():
        text = f"this ONNX Runtime has no {name}: convlens[gpu] brings it, without onnxruntime beside it"
        raise FailedPrecondition(text)
    with _printing_to_the_log():
        ort.preload_dlls()  # CUDA and cuDNN, from the packages that convlens[gpu] brings, or the system's.
        try:
            used = ort.InferenceSession(_identity(), providers=[provider]).get_providers()
        except Exception as error:  # onnxruntime's errors have no common public base.
            raise FailedPrecondition(f"ONNX Runtime cannot use {name}: {error}") from error
    if name not in used:
        raise FailedPrecondition(f"ONNX Runtime cannot use {name}, for the reason that it gave just before")


@contextmanager
def _printing_to_the_log() -> Iterator[None]:
    """Log what ONNX Runtime prints, which would stand where the server says that it is ready."""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        for line in printed.getvalue().splitlines():
            log.warning("%s", line)


def _identity() -> bytes:
    """A graph that gives back its input."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "nothing", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return bytes(model.SerializeToString())
