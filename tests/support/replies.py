"""Reading the replies of a server with bare stubs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
import numpy as np
import pytest

from convlens import errors, wire


def tensors_of(replies: Iterable[Any]) -> tuple[Any, dict[str, np.ndarray]]:
    """The `result` of a stream, if its replies have one, and its tensors."""
    assembler, result = wire.Assembler(), None
    for reply in replies:
        if reply.HasField("tensor"):
            assembler.add(reply.tensor)
        else:
            result = reply.result
    return result, assembler.finish()


def error_of(method: Any, request: Any) -> errors.ConvLensError:
    """The error that a call ends with, whether it is a stream or not."""
    streams = isinstance(method, grpc.UnaryStreamMultiCallable)
    with pytest.raises(grpc.RpcError) as raised:
        list(method(request, timeout=60)) if streams else method(request, timeout=60)
    return errors.from_rpc_error(raised.value)
