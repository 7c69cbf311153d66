"""The weights of a network, as they are stored."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from convlens.errors import InvalidArgument
from convlens_models.repository import StoredModel


def filters(stored: StoredModel, layer: str) -> dict[str, NDArray[Any]]:
    """The kernel of a layer under its name: (out, in / groups, kernel height, kernel width), or (out, in).

    Args:
        layer: a layer with weights; empty means the first convolution.

    Raises:
        InvalidArgument: the layer has no weights; names some that do.
    """
    weighted = {layer.name: layer.weight for layer in stored.manifest.layers if layer.weight}
    weights = stored.weights()
    name = layer or next((name for name, key in weighted.items() if weights[key].ndim == 4), "")
    if name not in weighted:
        allowed = f"a layer with weights, such as {', '.join(list(weighted)[:3])}"
        raise InvalidArgument.of("layer", name, allowed)
    return {name: weights[weighted[name]]}
