"""Windows along one axis, and along three of which one is trivial, as windows along rows and columns.

Only these have rules. A row becomes an image of one row. An axis along which the window is 1, as in PyTorch's
local response normalisation over (channels, rows, columns) and in lambda networks (Bello 2021,
arXiv:2102.08602), becomes part of the batch.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx
from onnx import helper

from .draft import Draft
from .graph_builder import Node

OF_ONE_ROW: Final = {"kernel_shape": 1, "strides": 1, "dilations": 1, "output_padding": 0}
"""Attributes of one number an axis, and what they are along an axis of one row."""


def two_dimensional(node: onnx.NodeProto, draft: Draft) -> list[onnx.NodeProto]:
    """The node between some that change the axes; nothing where it has two axes, or more that count."""
    known, axes = Node(node), draft.rank(node.input[0]) - 2
    if len(node.output) > 1 or "output_shape" in known.attributes:
        return []
    if axes == 1:
        return _one_row(node, draft)
    trivial = [axis for axis in range(3) if axes == 3 and _trivial(known, draft, axis)]
    return _in_the_batch(node, draft, trivial[-1]) if trivial else []


def _one_row(node: onnx.NodeProto, draft: Draft) -> list[onnx.NodeProto]:
    y = node.output[0]
    axis, lifted, inner = draft.ints(f"{y}/axis", 2), [f"{y}/image", f"{y}/kernel"], f"{y}/row"
    attributes: dict[str, Any] = Node(node).attributes
    attributes |= {name: [one, *attributes[name]] for name, one in OF_ONE_ROW.items() if name in attributes}
    if pads := attributes.get("pads"):
        attributes["pads"] = [0, pads[0], 0, pads[1]]
    pairs = list(zip(node.input, lifted, strict=False))
    return [
        *(helper.make_node("Unsqueeze", [source, axis], [name], name=name) for source, name in pairs),
        helper.make_node(
            node.op_type, [*lifted[: len(pairs)], *node.input[2:]], [inner], name=inner, **attributes
        ),
        helper.make_node("Squeeze", [inner, axis], [y], name=node.name or y),
    ]


def _trivial(node: Node, draft: Draft, axis: int) -> bool:
    """Whether every position along one of three axes stays by itself."""
    kernel = node.get("kernel_shape") or draft.sizes(node.inputs[1])[2:]
    stated = [
        node.get(name, [one] * 3)[axis] == one for name, one in OF_ONE_ROW.items() if name != "kernel_shape"
    ]
    pads = node.get("pads", [0] * 6)
    return kernel[axis] == 1 and all(stated) and not pads[axis] and not pads[axis + 3]


def _in_the_batch(node: onnx.NodeProto, draft: Draft, axis: int) -> list[onnx.NodeProto]:
    """x (N, C, ..., A, ...) as (N A, C, ...), and y back."""
    y, nodes = node.output[0], list[onnx.NodeProto]()

    def add(kind: str, *inputs: str, **attributes: Any) -> str:
        value = f"{y}/{kind}{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [value], name=value, **attributes))
        return value

    attributes: dict[str, Any] = Node(node).attributes
    attributes |= {k: np.delete(attributes[k], axis).tolist() for k in OF_ONE_ROW if k in attributes}
    if pads := attributes.get("pads"):
        attributes["pads"] = np.delete(pads, [axis, axis + 3]).tolist()
    order = [0, 2 + axis, 1, *(2 + other for other in range(3) if other != axis)]
    turned = add("Transpose", node.input[0], perm=order)
    batch = add("Concat", draft.ints(f"{y}/batch", -1), add("Shape", turned, start=2), axis=0)
    inputs = [add("Reshape", turned, batch), *node.input[1:]]
    if len(inputs) > 1:
        inputs[1] = add("Squeeze", inputs[1], draft.ints(f"{y}/axis", 2 + axis))
    flat = add(node.op_type, *inputs, **attributes)
    sizes = add("Concat", add("Shape", turned, end=2), add("Shape", flat, start=1), axis=0)
    add("Transpose", add("Reshape", flat, sizes), perm=np.argsort(order).tolist())
    nodes[-1].output[0], nodes[-1].name = y, node.name or y
    return nodes
