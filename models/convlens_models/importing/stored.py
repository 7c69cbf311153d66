"""Moves the weights of a graph to a file of their own, as every version has them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from safetensors.numpy import save_file

from convlens_models import tensors
from convlens_models.graphs import surgery
from convlens_models.repository import WEIGHTS

STORED_FROM: Final = 16  # Elements; smaller constants stay in the graph, where they can be read.


def move_weights(model: onnx.ModelProto, folder: Path) -> int:
    """Write the weights to their own file and point the graph at it; returns how many numbers they are."""
    used = {name for node in model.graph.node for name in node.input}
    stored, small = {}, []
    for tensor in model.graph.initializer:
        floating = tensor.data_type in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
        value = numpy_helper.to_array(tensor)
        if tensor.name in used and floating and value.size >= STORED_FROM:
            stored[tensor.name] = np.ascontiguousarray(value)
        elif tensor.name in used:
            small.append(tensor)
    save_file(stored, folder / WEIGHTS)
    index = tensors.index(folder / WEIGHTS)
    external = [tensors.external(name, entry, WEIGHTS) for name, entry in index.items()]
    surgery.replace(model.graph.initializer, [*small, *external])
    return sum(value.size for value in stored.values())
