"""A server whose passes take a fixed time, whatever else the machine does; for `benchmarks.overload`.

The first pass of each shape is computed, and then replayed: an image takes `SECONDS` forward and three times
that there and back, on one thread. Runs in the environment of any checkout.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

from convlens.errors import Cancelled
from convlens_models.manifest import INPUT
from convlens_server.__main__ import main
from convlens_server.backends import onnx_backend
from convlens_server.request.cancellation import interruptible
from convlens_server.request.request_context import phase

SECONDS: Final = 0.02
SCALING: Final = 0.75
"""A pass on n threads is n to this power as fast."""

compute = onnx_backend._run
known: dict[tuple[Any, ...], list[Any]] = {}


def replay(session: Any, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
    """The outputs of an earlier pass of that shape, after the time that a pass takes."""
    key = (id(session), *outputs, *(array.shape for array in feeds.values()))
    if key not in known:
        known[key] = compute(session, outputs, feeds)
    threads = session.get_session_options().intra_op_num_threads
    seconds = SECONDS * len(feeds[INPUT]) * (3 if len(feeds) > 1 else 1) / threads**SCALING
    left = threading.Event()
    with phase("compute"), interruptible(left.set):
        if left.wait(seconds):
            raise Cancelled("the caller has left")
    return [value.copy() for value in known[key]]


if __name__ == "__main__":
    onnx_backend._run = replay
    main()
