"""Windows along one axis, and along three of which two are trivial, as windows along rows and columns.

Only these have rules. A row becomes an image of one row; of (channels, rows, columns), over which PyTorch's
exporter writes local response normalisation, the two axes along which the window is 1 become one.
"""

from __future__ import annotations

from typing import Any, Final

import onnx
from onnx import helper

from .draft import Draft
from .graph_builder import Node

OF_ONE_ROW: Final = {"kernel_shape": 1, "strides": 1, "dilations": 1, "output_padding": 0}
"""Attributes of one number an axis, and what they are along an axis of one row."""


def two_dimensional(node: onnx.NodeProto, draft: Draft) -> list[onnx.NodeProto]:
    """The node between two that change the axes; nothing where it has two axes, or more that count."""
    axes = draft.rank(node.input[0]) - 2
    if axes == 1 and len(node.output) == 1 and "output_shape" not in Node(node).attributes:
        return _one_row(node, draft)
    if axes == 3 and len(node.output) == 1 and node.op_type.endswith("Pool") and _flat(Node(node)):
        return _joined_columns(node, draft)
    return []


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


def _flat(node: Node) -> bool:
    """Whether the window leaves the last two of three axes as they are."""
    ones = all(node.get(name, [1] * 3)[1:] == [1, 1] for name in ("kernel_shape", "strides", "dilations"))
    pads = node.get("pads", [0] * 6)
    return ones and not any(pads[1:3] + pads[4:]) and node.get("auto_pad", "NOTSET") == "NOTSET"


def _joined_columns(node: onnx.NodeProto, draft: Draft) -> list[onnx.NodeProto]:
    x, y = node.input[0], node.output[0]
    rows, pooled, sides, sizes = (f"{y}/{part}" for part in ("rows", "pooled", "sides", "sizes"))
    attributes: dict[str, Any] = Node(node).attributes
    attributes |= {name: attributes[name][:2] for name in OF_ONE_ROW if name in attributes}
    if pads := attributes.get("pads"):
        attributes["pads"] = [pads[0], 0, pads[3], 0]
    flat, same = draft.ints(f"{y}/flat", 0, 0, 0, -1), draft.ints(f"{y}/same", 0, 0, 0)
    return [
        helper.make_node("Reshape", [x, flat], [rows], name=rows),
        helper.make_node(node.op_type, [rows], [pooled], name=pooled, **attributes),
        helper.make_node("Shape", [x], [sides], name=sides, start=3),
        helper.make_node("Concat", [same, sides], [sizes], name=sizes, axis=0),
        helper.make_node("Reshape", [pooled, sizes], [y], name=node.name or y),
    ]
