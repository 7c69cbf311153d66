"""What ONNX Runtime computes on: CUDA where it is there, and else the CPU, by the same code."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

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


def choose(device: str, memory: int, available: Sequence[str] | None = None) -> list[Provider]:
    """The execution providers for a device, best first.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:<ordinal>".
        memory: bytes of the device that values may take; 0 for no limit.
        available: by default what this ONNX Runtime has.

    Raises:
        FailedPrecondition: CUDA is demanded, and this ONNX Runtime has none.
    """
    kind, _, ordinal = device.partition(":")
    there = CUDA in (ort.get_available_providers() if available is None else available)
    if kind == "cuda" and not there:
        text = f"device = {device!r}: this ONNX Runtime has no {CUDA}; install convlens[gpu], or use auto"
        raise FailedPrecondition(text, field="device")
    if kind == "cpu" or not there:
        if kind == "auto":
            log.info("computing on the CPU: this ONNX Runtime has no %s", CUDA)
        return [(CPU, {})]
    options = {"device_id": int(ordinal or 0), "arena_extend_strategy": "kSameAsRequested"}
    # The exhaustive search, the default, would be made again for every size of batch.
    options["cudnn_conv_algo_search"] = "HEURISTIC"
    return [(CUDA, options | ({"gpu_mem_limit": memory} if memory else {})), (CPU, {})]
