"""Rewrites of the forward graph that leave its values as they are, and make its gradient cheaper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .graph_builder import Node

MOST_PARTS = 4  # Of a Concat; a DenseNet's would make a convolution for every pair of layers.


class Draft:
    """The graph while it is rewritten."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.makers = {value: node for node in graph.node for value in node.output}
        self.infos = {info.name: info for info in (*graph.value_info, *graph.input, *graph.output)}

    def channels(self, value: str) -> int:
        """The number of channels of a value; 0 if it is not known."""
        sizes = self.infos[value].type.tensor_type.shape.dim if value in self.infos else []
        return int(sizes[1].dim_value) if len(sizes) > 1 else 0

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

    def ints(self, name: str, value: int) -> str:
        """An initializer of one integer."""
        self.graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))
        return name


def simplify(graph: onnx.GraphProto) -> None:
    """Apply the rewrites in place, given shapes; those of new values are to be inferred afterwards."""
    draft = Draft(graph)
    nodes = [fresh for node in graph.node for fresh in _rewritten(node, draft)]
    del graph.node[:]
    graph.node.extend(nodes)


def _rewritten(node: onnx.NodeProto, draft: Draft) -> list[onnx.NodeProto]:
    """What replaces `node`, down to where no rewrite applies."""
    for rewrite in REWRITES.get(node.op_type, ()):
        if fresh := rewrite(node, draft):
            draft.makers.update((value, new) for new in fresh for value in new.output)
            return [last for new in fresh for last in _rewritten(new, draft)]
    return [node]


def pool_of_concat(node: onnx.NodeProto, draft: Draft) -> list[onnx.NodeProto]:
    """MaxPool(Concat(a, b)) as Concat(MaxPool(a), MaxPool(b))."""
    known = len(node.output) == 1 and draft.channels(node.output[0])
    parts = draft.parts(node.input[0]) if known else []
    names = [f"{node.output[0]}/part{i}" for i in range(len(parts))]
    fresh = []
    for part, name in zip(parts, names, strict=True):
        fresh.append(helper.make_node("MaxPool", [part], [name], name=name, **Node(node).attributes))
        draft.describe(name, node.output[0], draft.channels(part))
    joined = helper.make_node("Concat", names, node.output, name=node.name, axis=1)
    return [*fresh, joined] if parts else []


def pool_of_rows_and_columns(node: onnx.NodeProto, draft: Draft) -> list[onnx.NodeProto]:
    """A MaxPool of stride 1 as one along rows and one along columns, whose gradients are half the work.

    The first maximum in window order is that of the first row that has it, so that ties stay as they are.
    """
    known = Node(node)
    kernel, pads = known.get("kernel_shape"), known.get("pads", [0, 0, 0, 0])
    plain = known.get("auto_pad", "NOTSET") == "NOTSET" and len(node.output) == 1
    if not plain or len(kernel) != 2 or 1 in kernel or known.get("strides", [1, 1]) != [1, 1]:
        return []
    dilations = known.get("dilations", [1, 1])

    def along(axis: int, source: str, value: str) -> onnx.NodeProto:
        only: dict[str, Any] = {
            "kernel_shape": [size if i == axis else 1 for i, size in enumerate(kernel)],
            "dilations": [size if i == axis else 1 for i, size in enumerate(dilations)],
            "pads": [size if i % 2 == axis else 0 for i, size in enumerate(pads)],
        }
        return helper.make_node("MaxPool", [source], [value], name=value, **only)

    middle = f"{node.output[0]}/rows"
    return [along(1, node.input[0], middle), along(0, middle, node.output[0])]


def conv_of_concat(node: onnx.NodeProto, draft: Draft) -> list[onnx.NodeProto]:
    """Conv(Concat(a, b)) as Conv(a) + Conv(b), so that nothing is joined to be cut up again."""
    parts = draft.parts(node.input[0]) if Node(node).get("group", 1) == 1 else []
    if not parts or not draft.channels(node.output[0]):
        return []
    value, fresh, start, total = node.output[0], [], 0, ""
    axis = draft.ints(f"{value}/axis", 1)
    ends = [draft.ints(f"{value}/start", 0)]
    for i, part in enumerate(parts):
        start += draft.channels(part)
        ends.append(draft.ints(f"{value}/end{i}", start))
        weight, name = f"{value}/weight{i}", f"{value}/part{i}"
        bias = node.input[2:] if i == 0 else []
        fresh.append(helper.make_node("Slice", [node.input[1], *ends[-2:], axis], [weight], name=weight))
        fresh.append(
            helper.make_node("Conv", [part, weight, *bias], [name], name=name, **Node(node).attributes)
        )
        draft.describe(name, value)
        if total:
            last = value if i == len(parts) - 1 else f"{value}/sum{i}"
            fresh.append(helper.make_node("Add", [total, name], [last], name=last))
            if last != value:
                draft.describe(last, value)
        total = fresh[-1].output[0]
    return fresh


Rewrite = Callable[[onnx.NodeProto, Draft], list[onnx.NodeProto]]
REWRITES: dict[str, Sequence[Rewrite]] = {
    "Conv": [conv_of_concat],
    "MaxPool": [pool_of_concat, pool_of_rows_and_columns],
}
