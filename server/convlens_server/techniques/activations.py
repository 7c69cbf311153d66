"""The values inside a network."""

from __future__ import annotations

from collections.abc import Sequence

from convlens_server.engines.base import F32, Engine


def activations(engine: Engine, images: F32, layers: Sequence[str]) -> dict[str, F32]:
    """The value of each layer, (N, C, H, W) or (N, C), in the order asked for, each once."""
    return engine.forward(images, list(dict.fromkeys(layers)))
