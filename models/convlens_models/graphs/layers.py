"""What a graph's values are: shapes, receptive fields, strides, multiply-adds. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import onnx

from convlens_models.graphs import surgery
from convlens_models.manifest import INPUT, Layer
from convlens_models.vjp import operator_of
from convlens_models.vjp.fields import EVERYTHING, Field
from convlens_models.vjp.graph_builder import GraphBuilder, Node, ReluRule, known_sizes
from convlens_models.vjp.marks import DETACHED
from convlens_models.vjp.window import slides, windows

Fields = tuple[Field, Field]  # Along the rows and the columns of the image.


def describe(model: onnx.ModelProto, kinds: Mapping[str, str | None], size: int) -> tuple[Layer, ...]:
    """The layers of `model` for a square image of `size` pixels, in the order of execution.

    Args:
        kinds: name of each layer, which is also its value's name, to its kind; None: that of its operator.
    """
    graph = surgery.static(model, (1, size, size))
    shapes, fields = surgery.shapes(graph), receptive_fields(model, size)
    squares = {name: _square(fields[name], size) for name in kinds}
    starts = _starts(model, squares, size)
    makers = {node.output[0]: node for node in model.graph.node}
    stored = {tensor.name for tensor in model.graph.initializer}
    return tuple(
        Layer(
            name=name,
            kind=kind or operator_of(makers[name]).kind or makers[name].op_type,
            tensor=name,
            shape=shapes[name][1:],
            weight=_weight(makers[name], stored),
            receptive_field_starts=starts.get(name, ()),
            **squares[name],
        )
        for name, kind in kinds.items()
    )


def _starts(
    model: onnx.ModelProto, squares: Mapping[str, Mapping[str, Any]], size: int
) -> dict[str, tuple[float, ...]]:
    """`Layer.receptive_field_starts` of the layers that need them; see `receptive_fields`."""
    strides = {name: square["stride"] for name, square in squares.items() if square["stride"]}
    if not strides or not any(_pads_by_size(Node(node)) for node in model.graph.node):
        return {}
    maps, period = surgery.cut(surgery.opened(model), list(strides)), math.lcm(*strides.values())
    base = max(period, size - size % period)
    sides = range(base, base + period + period % 2)
    fields: list[dict[str, Fields]] = []
    try:
        for pair in zip(sides[::2], sides[1::2], strict=True):  # Two sides in one pass.
            fields.append(receptive_fields(maps, *pair))
    except onnx.shape_inference.InferenceError:
        return {}  # The network has no other size.
    centres = {
        name: tuple(_centre(fields[side // 2][name][side % 2]) for side in range(stride))
        for name, stride in strides.items()
    }
    return {name: found for name, found in centres.items() if len(set(found)) > 1}


def _pads_by_size(node: Node) -> bool:
    automatic = str(node.get("auto_pad", "NOTSET")).startswith("SAME")
    return automatic and set(node.get("strides", [1])) != {1}


def _centre(field: Field) -> float:
    return (math.ceil(field.first) + math.floor(field.last)) / 2


def receptive_fields(model: onnx.ModelProto, size: int, width: int | None = None) -> dict[str, Fields]:
    """Theoretical receptive fields of every value that depends on the image; where paths meet, their union.

    They hold for images of any size, unless a window with a stride has automatic pads, which depend on it:
    then for those that leave the same remainder as `size` when divided by the stride.

    Args:
        size: height of the image, and its width unless `width` says another.
    """
    builder = _builder(model, size, size if width is None else width)
    fields: dict[str, Fields] = {INPUT: (Field(axis=-2), Field(axis=-1))}
    for proto in builder.graph.node:
        if proto.doc_string == DETACHED:  # A scale that follows from all of the image is a number of its own.
            continue
        node = Node(proto)
        inputs = [(index, fields[name]) for index, name in enumerate(node.inputs) if name in fields]
        if inputs:
            rows, columns = (
                reduce(Field.join, (_seen(builder, node, index, both[i]) for index, both in inputs))
                for i in range(2)
            )
            fields.update(dict.fromkeys(node.outputs, (rows, columns)))
    return fields


def _seen(builder: GraphBuilder, node: Node, index: int, field: Field) -> Field:
    """What the outputs see through this input; everything where shapes cannot be inferred."""
    known = all(builder.dims(value) is not None for value in (node.inputs[index], node.outputs[0]))
    return operator_of(node.proto).sees(builder, node, index, field) if field.step and known else EVERYTHING


def _builder(model: onnx.ModelProto, height: int, width: int) -> GraphBuilder:
    """Answers what the values of `model` are for one image of this size."""
    return GraphBuilder(surgery.static(model, (1, height, width)).graph, ReluRule.GRADIENT)


def multiply_adds(model: onnx.ModelProto, size: int) -> int:
    """Multiplications of the convolutions and linear layers for one square image of `size` pixels."""
    return sum(multiply_adds_by_kind(model, size))


def multiply_adds_by_kind(model: onnx.ModelProto, size: int) -> tuple[int, int]:
    """Those whose values have positions, which are in proportion to the pixels, and all others."""
    shapes = surgery.shapes(surgery.static(model, (1, size, size)))
    weights = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}
    found = [0, 0]
    for node in model.graph.node:
        if operator_of(node).kernel and node.input[1] in weights:
            positions = shapes[node.output[0]][2:]
            found[not positions] += weights[node.input[1]] * math.prod(positions)
    return found[0], found[1]


def min_size(model: onnx.ModelProto, size: int) -> int:
    """Smallest side of a square image that leaves every value at least one position; at most `size`."""
    return _first(lambda side: _fitting(model, side, side) is not None, size)


def shape_at(model: onnx.ModelProto, value: str, height: int, width: int) -> tuple[int, ...] | None:
    """Shape of `value`, without the batch axis, for an image of this size; None where it has no position.

    What comes behind the value, as a head of one size, counts for nothing.
    """
    builder = _fitting(surgery.cut(surgery.opened(model), [value]), height, width)
    dims = None if builder is None else known_sizes(builder.shape(value)[1:])
    return None if dims is None else tuple(dims)


def _first(holds: Callable[[int], bool], high: int) -> int:
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _fitting(model: onnx.ModelProto, height: int, width: int) -> GraphBuilder | None:
    """What the values are for an image of this size, if every window has a position in its map.

    Shape inference reports a position where there is none.
    """
    try:
        builder = _builder(model, height, width)
    except onnx.shape_inference.InferenceError:
        return None
    sliding = (Node(proto) for proto in builder.graph.node if operator_of(proto).sees is slides)
    nodes = [node for node in sliding if len(builder.dims(node.inputs[0]) or ()) == len("NCHW")]
    fits = all(axis.fits(node.get("ceil_mode", 0)) for node in nodes for axis in windows(builder, node))
    return builder if fits else None


def _square(fields: Fields, size: int) -> dict[str, Any]:
    """One square for both axes: around both fields where they differ, all of the input where strides do.

    All of the input too where the value's last two axes are not rows and columns, and where positions lie a
    fraction of a pixel apart: a stride is a whole number.
    """
    rows, columns = fields
    whole = (rows.axis, columns.axis, rows.step) != (-2, -1, columns.step) or rows.step.denominator > 1
    first = 0 if whole else min(math.ceil(field.first) for field in fields)
    last = size - 1 if whole else max(math.floor(field.last) for field in fields)
    return {
        "stride": 0 if whole else int(rows.step),
        "receptive_field": last - first + 1,
        "receptive_field_start": (first + last) / 2,
    }


def _weight(node: onnx.NodeProto, stored: set[str]) -> str | None:
    """Key of the kernel, where it is stored as (out, in, ...)."""
    by_output = node.op_type == "Conv" or (node.op_type == "Gemm" and Node(node).get("transB"))
    return node.input[1] if by_output and node.input[1] in stored else None
