"""The forward graph while it is rewritten."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from .graph_builder import Array, Dim, GraphBuilder, Node, ReluRule

LOWEST = -3e38  # Finite: an infinity times a zero of a kernel would not be a number.
MOST_PARTS = 4  # Of a Concat; a DenseNet's would make a convolution for every pair of layers.


class Draft:
    """The graph while it is rewritten."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.known = GraphBuilder(graph, ReluRule.GRADIENT)
        self.constant_of = self.known.constant_of
        self.makers = {value: node for node in graph.node for value in node.output}
        self.infos = {info.name: info for info in (*graph.value_info, *graph.input, *graph.output)}

    def channels(self, value: str) -> int:
        """The number of channels of a value; 0 if it is not known."""
        sizes = self.infos[value].type.tensor_type.shape.dim if value in self.infos else []
        return int(sizes[1].dim_value) if len(sizes) > 1 else 0

    def rank(self, value: str) -> int:
        """The number of axes of a value; 0 if it is not known."""
        return len(self.known.dims(value) or ())

    def sizes(self, value: str) -> tuple[Dim, ...]:
        """The sizes of a value of known rank."""
        return self.known.shape(value)

    def parts(self, value: str) -> list[str]:
        """What `value` is joined of along the channels; nothing if it is not, or of too many parts."""
        maker = self.makers.get(value)
        if maker is None or maker.op_type != "Concat" or Node(maker).get("axis") not in (1, -3):
            return []
        usable = len(maker.input) <= MOST_PARTS and all(map(self.channels, maker.input))
        return list(maker.input) if usable else []

    def describe(self, value: str, like: str, channels: int = 0) -> None:
        """`value` is shaped like another, with `channels` channels: open sizes keep their names."""
        info = onnx.ValueInfoProto(name=value)
        info.type.CopyFrom(self.infos[like].type)
        if channels:
            info.type.tensor_type.shape.dim[1].dim_value = channels
        self.infos[value] = info
        self.graph.value_info.append(info)

    def ints(self, name: str, *values: int) -> str:
        """An initializer of integers."""
        return self.constant(name, np.array(values, np.int64))

    def constant(self, name: str, array: Array) -> str:
        """An initializer."""
        self.graph.initializer.append(numpy_helper.from_array(array, name))
        return name
