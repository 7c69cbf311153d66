"""(x - mean) / std as the first nodes of every graph, so that callers speak of pixels in [0, 1]."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from convlens.errors import InvalidArgument
from convlens_models.manifest import INPUT, Rgb

NORMALIZED = "normalized"


def check_normalisation(mean: Rgb, std: Rgb) -> tuple[Rgb, Rgb]:
    """Both, if they can normalise. Raises InvalidArgument otherwise."""
    if not all(-1e6 < value < 1e6 for value in mean):
        raise InvalidArgument.of("mean", mean, "three finite numbers")
    if not all(0 < value < 1e6 for value in std):
        raise InvalidArgument.of("std", std, "three positive numbers")
    return mean, std


def normalisation(
    mean: Rgb, std: Rgb, *, output: str = NORMALIZED, bgr: bool = False
) -> tuple[list[NodeProto], list[TensorProto]]:
    """Nodes and constants that make the value `output` of "image"; with `bgr`, blue comes first in it."""
    constants = {f"{output}.mean": _plane(mean), f"{output}.std": _plane(std)}
    scaled = f"{output}.rgb" if bgr else output
    nodes = [
        helper.make_node("Sub", [INPUT, f"{output}.mean"], [f"{output}.centred"], name=f"{output}.centred"),
        helper.make_node("Div", [f"{output}.centred", f"{output}.std"], [scaled], name=scaled),
    ]
    if bgr:  # A convolution, because every runtime has it and it can be differentiated.
        constants[f"{output}.swap"] = np.eye(3, dtype=np.float32)[::-1].reshape(3, 3, 1, 1)
        nodes.append(helper.make_node("Conv", [scaled, f"{output}.swap"], [output], name=output))
    return nodes, [numpy_helper.from_array(value, key) for key, value in constants.items()]


def _plane(values: Rgb) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.asarray(values, np.float32).reshape(1, 3, 1, 1)
