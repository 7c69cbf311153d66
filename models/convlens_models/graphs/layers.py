"""What a graph's values are: shapes, receptive fields, strides, multiply-adds. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import onnx
from onnx import helper

from convlens_models.graphs import surgery
from convlens_models.manifest import INPUT, Layer

WINDOWS: Final = {"Conv", "MaxPool", "AveragePool", "LpPool"}
GLOBAL: Final = {"GlobalAveragePool", "GlobalMaxPool", "Flatten", "Reshape", "Gemm", "MatMul", "ReduceMean"}
KINDS: Final = {"Gemm": "Linear", "MatMul": "Linear"}


@dataclass(frozen=True)
class Field:
    """What position 0 of a value sees along one axis of the input, in pixels; `step` to the next position."""

    first: float = 0.0
    last: float = 0.0
    step: int = 1

    def window(self, kernel: int, stride: int, padding: int, dilation: int) -> Field:
        """The field behind a convolution or pool over this value."""
        first = self.first - padding * self.step
        return Field(
            first, first + self.last - self.first + (kernel - 1) * dilation * self.step, self.step * stride
        )

    def join(self, other: Field) -> Field:
        """The field of a sum, product or concatenation; the whole input (step 0) where one part has it."""
        step = max(self.step, other.step) if self.step and other.step else 0
        return Field(min(self.first, other.first), max(self.last, other.last), step)


def describe(model: onnx.ModelProto, kinds: Mapping[str, str | None], size: int) -> tuple[Layer, ...]:
    """The layers of `model` for a square image of `size` pixels, in the order of execution.

    Args:
        kinds: name of each layer, which is also its value's name, to its kind; None: the operator's name.
    """
    shapes = surgery.shapes(surgery.static(model, (1, size, size)))
    fields = receptive_fields(model, size)
    makers = {node.output[0]: node for node in model.graph.node}
    kernels = {tensor.name for tensor in model.graph.initializer}
    return tuple(
        Layer(
            name=name,
            kind=kind or KINDS.get(makers[name].op_type, makers[name].op_type),
            tensor=name,
            shape=shapes[name][1:],
            weight=_weight(makers[name], kernels),
            **_field(fields[name], size),
        )
        for name, kind in kinds.items()
    )


def receptive_fields(model: onnx.ModelProto, size: int) -> dict[str, tuple[Field, Field]]:
    """Theoretical receptive fields (vertical, horizontal) of every value; where paths meet, their union.

    Along a path a window of k positions with dilation d and padding p over positions `step` apart adds
    (k - 1) d step pixels and moves the first one by -p step (Araujo et al. 2019, doi:10.23915/distill.00021).
    """
    whole = Field(0, size - 1, 0)
    fields = {INPUT: (Field(), Field())}
    for node in model.graph.node:
        seen = [fields[name] for name in node.input if name in fields]
        if not seen:
            continue
        field = seen[0]
        for other in seen[1:]:
            field = (field[0].join(other[0]), field[1].join(other[1]))
        if node.op_type in GLOBAL:
            field = (whole, whole)
        elif node.op_type in WINDOWS:
            field = _window(field, _window_attributes(node, model))
        fields.update(dict.fromkeys(node.output, field))
    return fields


def multiply_adds(model: onnx.ModelProto, size: int) -> int:
    """Multiplications of the convolutions and linear layers for one square image of `size` pixels."""
    shapes = surgery.shapes(surgery.static(model, (1, size, size)))
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    total = 0
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in weights:
            positions = math.prod(shapes[node.output[0]][2:])
            total += math.prod(weights[node.input[1]]) * positions
    return total


def min_size(model: onnx.ModelProto, size: int) -> int:
    """Smallest side of a square image that leaves every value at least one position; at most `size`."""
    return _first(lambda side: _fits(model, side), size)


def _first(holds: Callable[[int], bool], high: int) -> int:
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _fits(model: onnx.ModelProto, side: int) -> bool:
    try:
        found = surgery.shapes(surgery.static(model, (1, side, side)))
    except onnx.shape_inference.InferenceError:
        return False
    windows = (node for node in model.graph.node if node.op_type in WINDOWS)
    return all(_window_fits(_window_attributes(node, model), found[node.input[0]][2:]) for node in windows)


def _window_fits(attributes: Mapping[str, Any], sides: Sequence[int]) -> bool:
    """Whether a window has a position in a map; shape inference reports one where there is none."""
    pads = attributes["pads"]
    for axis, side in enumerate(sides):
        reach = (attributes["kernel_shape"][axis] - 1) * attributes["dilations"][axis] + 1
        slack = attributes["strides"][axis] - 1 if attributes.get("ceil_mode") else 0
        if side < 1 or side + pads[axis] + pads[axis + 2] + slack < reach:
            return False
    return True


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _window_attributes(node: onnx.NodeProto, model: onnx.ModelProto) -> dict[str, Any]:
    """Attributes of a convolution or pool with kernel and pads spelt out."""
    attributes = {"strides": (1, 1), "dilations": (1, 1), "pads": (0, 0, 0, 0)} | _attributes(node)
    if "kernel_shape" not in attributes:
        kernel = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
        attributes["kernel_shape"] = tuple(kernel.dims[2:])
    if attributes.get("auto_pad", b"") in (b"SAME_UPPER", b"SAME_LOWER"):
        attributes["pads"] = _same_pads(attributes)
    return attributes


def _same_pads(attributes: Mapping[str, Any]) -> tuple[int, ...]:
    """Pads of SAME_UPPER or SAME_LOWER where the stride divides the side."""
    lower = attributes["auto_pad"] == b"SAME_LOWER"
    windows = zip(attributes["kernel_shape"], attributes["dilations"], attributes["strides"], strict=True)
    totals = [max((kernel - 1) * dilation + 1 - stride, 0) for kernel, dilation, stride in windows]
    begins = [(total + lower) // 2 for total in totals]
    return (*begins, *(total - begin for total, begin in zip(totals, begins, strict=True)))


def _window(fields: tuple[Field, Field], attributes: Mapping[str, Any]) -> tuple[Field, Field]:
    kernel, strides = attributes["kernel_shape"], attributes["strides"]
    dilations, pads = attributes["dilations"], attributes["pads"]
    first, second = (
        field.window(kernel[axis], strides[axis], pads[axis], dilations[axis])
        for axis, field in enumerate(fields)
    )
    return first, second


def _field(fields: tuple[Field, Field], size: int) -> dict[str, Any]:
    """One square for both axes: around both fields where they differ, all of the input where strides do."""
    steps = {field.step for field in fields}
    first = min(field.first for field in fields) if len(steps) == 1 else 0
    last = max(field.last for field in fields) if len(steps) == 1 else size - 1
    return {
        "stride": steps.pop() if len(steps) == 1 else 0,
        "receptive_field": round(last - first) + 1,
        "receptive_field_start": (first + last) / 2,
    }


def _weight(node: onnx.NodeProto, initializers: set[str]) -> str | None:
    """Key of the kernel, where it is stored as (out, in, ...)."""
    stored = node.op_type == "Conv" or (node.op_type == "Gemm" and _attributes(node).get("transB") == 1)
    return node.input[1] if stored and node.input[1] in initializers else None
