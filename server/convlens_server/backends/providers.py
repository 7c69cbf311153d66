"""What ONNX Runtime computes on: CUDA where it is there, and else the CPU, by the same code."""

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

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
Provider = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Compute:
    """What passes of networks run on.

    Attributes:
        threads: that the next pass may use on the CPU.
        providers: of ONNX Runtime, best first.
        demanded: a session that cannot use the first of them is an error.
        batching: concurrent calls of models whose manifest says how become one pass.
    """

    threads: Callable[[], int]
    providers: Sequence[Provider] = ((CPU, {}),)
    demanded: bool = False
    batching: bool = False

    def check(self, session: ort.InferenceSession) -> ort.InferenceSession:
        """The session. Raises FailedPrecondition when it has fallen back from what is demanded."""
        first = self.providers[0][0]
        if self.demanded and first not in session.get_providers():
            raise FailedPrecondition(f"ONNX Runtime could not use {first}, which is demanded", field="device")
        return session


def on_cpu(threads: int) -> Compute:
    """So many threads on the CPU."""
    return Compute(lambda: threads)


log = logging.getLogger("convlens.server")


def choose(device: str, memory: int, check: Callable[[Provider], None] | None = None) -> list[Provider]:
    """The execution providers for a device, best first.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:<ordinal>".
        memory: bytes of the device that values may take; 0 for no limit.
        check: raises FailedPrecondition for a provider that does not work; by default it is tried.

    Raises:
        FailedPrecondition: CUDA is demanded, and does not work here.
    """
    kind, _, ordinal = device.partition(":")
    if kind == "cpu":
        return [(CPU, {})]
    options = {"device_id": int(ordinal or 0), "arena_extend_strategy": "kSameAsRequested"}
    # The exhaustive search, the default, would be made again for every size of batch.
    options["cudnn_conv_algo_search"] = "HEURISTIC"
    cuda = (CUDA, options | ({"gpu_mem_limit": memory} if memory else {}))
    try:
        (check or try_out)(cuda)
    except FailedPrecondition as error:
        if kind == "cuda":
            raise FailedPrecondition(f"device = {device!r}: {error}", field="device") from error
        log.info("computing on the CPU: %s", error)
        return [(CPU, {})]
    return [cuda, (CPU, {})]


def try_out(provider: Provider) -> None:
    """Open a session with it. Raises FailedPrecondition when the provider, a library or the driver lacks."""
    name, _ = provider
    if name not in ort.get_available_providers():
        text = f"this ONNX Runtime has no {name}: convlens[gpu] brings it, without onnxruntime beside it"
        raise FailedPrecondition(text)
    with _printing_to_the_log():
        ort.preload_dlls()  # CUDA and cuDNN, from the packages that convlens[gpu] brings, or the system's.
        try:
            found = ort.InferenceSession(_nothing(), providers=[provider]).get_providers()
        except Exception as error:  # onnxruntime's errors have no common public base.
            raise FailedPrecondition(f"ONNX Runtime cannot use {name}: {error}") from error
    if name not in found:
        raise FailedPrecondition(f"ONNX Runtime cannot use {name}, for the reason that it gave just before")


@contextmanager
def _printing_to_the_log() -> Iterator[None]:
    """What ONNX Runtime prints would stand where the server says that it is ready."""
    said = io.StringIO()
    try:
        with redirect_stdout(said):
            yield
    finally:
        for line in said.getvalue().splitlines():
            log.warning("%s", line)


def _nothing() -> bytes:
    """A graph that gives back its input."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "nothing", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return bytes(model.SerializeToString())
