"""Rewrites of the forward graph that leave its values as they are, and make its gradient cheaper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from .dimensions import two_dimensional
from .draft import LOWEST, Draft
from .graph_builder import Node


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


def finite_pad(node: onnx.NodeProto, draft: Draft) -> list[onnx.NodeProto]:
    """A Pad of minus infinity, as before a MaxPool, as one of LOWEST: the rule of pools multiplies it."""
    value = draft.constant_of(Node(node).input(2))
    if value is None or value.size != 1 or not np.isneginf(value):
        return []
    lowest = draft.constant(f"{node.output[0]}/lowest", np.array(LOWEST, value.dtype))
    fresh = onnx.NodeProto()
    fresh.CopyFrom(node)
    fresh.input[2] = lowest
    return [fresh]


Rewrite = Callable[[onnx.NodeProto, Draft], list[onnx.NodeProto]]
REWRITES: dict[str, Sequence[Rewrite]] = {
    "AveragePool": [two_dimensional],
    "Conv": [two_dimensional, conv_of_concat],
    "ConvTranspose": [two_dimensional],
    "Pad": [finite_pad],
    "MaxPool": [two_dimensional, pool_of_concat, pool_of_rows_and_columns],
}
