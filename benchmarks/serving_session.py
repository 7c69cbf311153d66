"""The session that all contestants but ours open; runs in the peers' environment."""

from __future__ import annotations

import onnxruntime as ort


def open_session(path: str, threads: int) -> ort.InferenceSession:
    """A session on so many threads, which do not spin: they would take the CPUs from each other."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
