"""ONNX Runtime, told to keep to itself what it sees: `from convlens_models.runtime import ort`.

From 1.29 on its packages for Linux write an id of the machine into the user's cache and send names and hashes
of models to their maker, beginning with the import. `disable_telemetry_events` comes after that, so the
variable does it; who wants to send sets it to 0.
"""

from __future__ import annotations

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

__all__ = ["ort"]
