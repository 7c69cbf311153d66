"""Quantised files in float32: the whole numbers that follow from the image are floats of the same value.

A value is divided by its scale, rounded, moved by its zero point and cut to the range of its type, as the
file says; the gradient goes straight through the rounding and stops beyond the range (Jacob et al., 2018).
Weights have become floats before, as constants do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from convlens.errors import InvalidArgument
from convlens_models.graphs import surgery
from convlens_models.importing.inputs import WHOLE
from convlens_models.importing.rounding import RANGES, Draft
from convlens_models.vjp.graph_builder import Node
from convlens_models.vjp.marks import DETACHED

FLOATS: Final = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
QUANTISATION: Final = "the file is quantised"
"""How the note begins."""
PROBABLE: Final = ("HardSigmoid", "LogSoftmax", "Sigmoid", "Softmax")
"""What gives probabilities: as a file's output they are given before their own rounding, which would hide the
scores that they are of."""
MOVING: Final = (
    *("DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Relu", "Reshape", "Slice"),
    *("SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
)
DATA: Final[dict[str, Sequence[int] | None]] = {
    **dict.fromkeys(("Concat", "Max", "Min", "Sum")),
    **dict.fromkeys(MOVING, (0,)),
    "Clip": (0, 1, 2),
    "Pad": (0, 2),
    "Where": (1, 2),
}
"""Operators that give numbers of the type that they take, and which of their inputs are such; None: all."""


def to_floats(model: onnx.ModelProto) -> list[str]:
    """Make floats of the whole numbers that are pixels or follow from them, in place; what is to be told.

    Raises:
        InvalidArgument: a scale or an operator that has no such form; names the node.
    """
    draft = Draft(model)
    for info in model.graph.input:
        if info.type.tensor_type.elem_type in WHOLE:
            draft.kinds[info.name] = info.type.tensor_type.elem_type
            info.type.tensor_type.elem_type = TensorProto.FLOAT
    whole, changed = bool(draft.kinds), list[str]()
    for proto in model.graph.node:
        row = QUANTISED.get(proto.op_type) if proto.domain in DOMAINS else None
        if row is not None:
            changed.append(proto.op_type)
            row(draft, Node(proto))
        elif draft.kinds.keys().isdisjoint(proto.input):
            draft.nodes.append(proto)
        else:
            _carry(draft, Node(proto))
    if not changed and not whole:
        return []
    for info in model.graph.output:
        if info.name in draft.kinds:
            shown = TensorProto.DataType.Name(draft.kinds[info.name])
            raise InvalidArgument.of(f"model.outputs.{info.name}", shown, "floats: dequantize the scores")
    surgery.replace(model.graph.node, draft.nodes)
    del model.graph.value_info[:]
    notes = ["the file takes whole numbers from 0 to 255: those between them are served too"] if whole else []
    if changed:
        shown = ", ".join(f"{changed.count(kind)} {kind}" for kind in dict.fromkeys(changed))
        notes.append(
            f"{QUANTISATION} ({shown}): computed in float32 with its scales and ranges; gradients go "
            "straight through the rounding, and stop beyond the range"
        )
    return notes


def _quantize_linear(draft: Draft, node: Node) -> None:
    if (kind := _kind(draft, node)) not in RANGES:
        raise node.refuse(f"{TensorProto.DataType.Name(kind)} has no form in float32")
    scale, zero = (_lifted(draft, node, draft.number(node, index)) for index in (1, 2))
    draft.quantise(node.inputs[0], scale, zero, kind, node.outputs[0])


def _kind(draft: Draft, node: Node) -> int:
    """The type of the numbers that a QuantizeLinear gives."""
    zero = draft.array(node.input(2))
    if zero is not None:
        return helper.np_dtype_to_tensor_dtype(zero.dtype)
    return int(node.get("output_dtype", 0) or TensorProto.UINT8)


def _dequantize_linear(draft: Draft, node: Node) -> None:
    source, value = draft.unrounded.get(node.inputs[0], ""), node.outputs[0]
    if value in draft.outputs and draft.makers.get(source) in PROBABLE:
        draft.add("Identity", [source], value)
        return
    scale, zero = (_lifted(draft, node, draft.number(node, index)) for index in (1, 2))
    draft.real(node.inputs[0], scale, zero, value)


def _lifted(draft: Draft, node: Node, value: NDArray[np.float32]) -> NDArray[np.float32]:
    """A number for each channel, shaped to go with the values."""
    if value.size == 1:
        return value.reshape(())
    axis, rank = node.get("axis", 1), len(draft.sizes.get(node.inputs[0], ()))
    if value.ndim > 1 or node.get("block_size", 0) or (axis >= 0 and not rank):
        raise node.refuse("it has scales for blocks, or of values of a rank that is not known")
    return value.reshape([-1] + [1] * ((-axis if axis < 0 else rank - axis) - 1))


def _wrapped(
    kind: str,
    operands: Sequence[Sequence[int]],
    result: tuple[int, int],
    bias: int | None = None,
) -> Callable[[Draft, Node], None]:
    """An operator that takes and gives quantised numbers: dequantise, compute in float32, quantise.

    Args:
        operands: of each operand the places of its numbers, its scale and its zero point.
        result: places of the scale and the zero point of what it gives.
        bias: place of a bias in units of the scales of both operands.
    """

    def row(draft: Draft, node: Node) -> None:
        value = node.outputs[0]
        scales = [_channels(draft, node, place, scale) for place, scale, _ in operands]
        zeros = [_channels(draft, node, place, zero) for place, _, zero in operands]
        names = [
            draft.real(node.inputs[place], scale, zero)
            for (place, *_), scale, zero in zip(operands, scales, zeros, strict=True)
        ]
        if bias is not None and node.input(bias):
            numbers = draft.exact(node, bias) * scales[0].reshape(-1) * scales[1].reshape(-1)
            names.append(draft.constant(numbers, f"{node.input(bias)}/float"))
        options = {name: item for name, item in node.attributes.items() if name not in OWN}
        made = draft.add(kind, names, f"{value}/{kind}", "", **options)
        _give(draft, node, made, result)

    return row


OWN: Final = ("channels_last", "opset")
"""Attributes of ONNX Runtime's own operators that ONNX's do not have."""


def _give(draft: Draft, node: Node, made: str, result: tuple[int, int]) -> None:
    """Quantise what an operator has computed; where it is told no scale, it gives floats."""
    value = node.outputs[0]
    if node.get("channels_last", 0):
        raise node.refuse("channels_last has no form in ONNX's own operators")
    if not node.input(result[0]):
        draft.add("Identity", [made], value)
        return
    zero = draft.array(node.input(result[1]))
    kind = TensorProto.UINT8 if zero is None else helper.np_dtype_to_tensor_dtype(zero.dtype)
    draft.quantise(made, draft.number(node, result[0]), draft.number(node, result[1]), kind, value)


def _channels(draft: Draft, node: Node, place: int, index: int) -> NDArray[np.float32]:
    """A scale or zero point; of weights (out, ...) one an output channel, of a matrix one a column."""
    value = draft.number(node, index)
    weights = draft.array(node.inputs[place])
    if value.size == 1 or weights is None:
        return value.reshape(()) if value.size == 1 else value
    first = node.kind.endswith("Conv") or node.get("transB", 0)
    return value.reshape([-1] + [1] * (weights.ndim - 1)) if first else value


def _integers(kind: str) -> Callable[[Draft, Node], None]:
    """ConvInteger and MatMulInteger: products of numbers less their zero points."""

    def row(draft: Draft, node: Node) -> None:
        names = []
        for index in (0, 1):
            source, zero = node.inputs[index], node.input(index + 2)
            array = draft.array(source)
            if array is not None:
                offset = draft.number(node, index + 2)
                offset = (
                    offset.reshape(-1, *[1] * (array.ndim - 1)) if kind == "Conv" and offset.ndim else offset
                )
                names.append(draft.constant(array.astype(np.float32) - offset, f"{source}/float"))
                continue
            if zero and zero not in draft.kinds:
                zero = draft.constant(draft.number(node, index + 2), f"{zero}/float")
            centred = f"{node.outputs[0]}/centred{index}"
            names.append(draft.add("Sub", [source, zero], centred) if zero else source)
        draft.add(kind, names, node.outputs[0], "", **node.attributes)
        draft.kinds[node.outputs[0]] = TensorProto.INT32

    return row


def _dynamic(draft: Draft, node: Node) -> None:
    """Scale and zero point by the least and the largest number, of each image by itself."""
    (source, (value, scale, zero)) = node.inputs[0], node.outputs
    rank = len(draft.sizes.get(source, ()))
    if rank < 2:
        raise node.refuse("the rank of what it quantises is not known")
    nought, top = draft.constant(0.0, "quantised/0"), draft.constant(255.0, "quantised/255")

    def add(kind: str, inputs: Sequence[str], name: str, **options: Any) -> str:
        return draft.add(kind, inputs, name, DETACHED, **options)

    axes = list(range(1, rank))
    options = {"axes": axes} if draft.opset < REDUCED_BY_INPUT else {}
    over = [] if options else [draft.constant(np.array(axes), f"{scale}/axes", np.int64)]
    ends = list[str]()
    for kind in ("Max", "Min"):
        end = add(f"Reduce{kind}", [source, *over], f"{scale}/{kind}", **options)
        ends.append(add(kind, [end, nought], f"{scale}/{kind}0"))
    width = add("Div", [add("Sub", ends, f"{scale}/width"), top], f"{scale}/step")
    flat = add("Equal", [width, nought], f"{scale}/flat")
    add("Where", [flat, draft.constant(1.0, "quantised/1"), width], scale)
    below = add("Div", [add("Neg", [ends[1]], f"{zero}/below"), scale], f"{zero}/steps")
    add("Round", [add("Clip", [below, nought, top], f"{zero}/within")], zero)
    draft.cut(source, (scale, zero), (0, 255), value)
    draft.kinds.update(dict.fromkeys((value, zero), TensorProto.UINT8))


def _concat(draft: Draft, node: Node) -> None:
    """QLinearConcat: scale and zero point of the result, then those of each part behind it."""
    names = [
        draft.real(node.inputs[place], draft.number(node, place + 1), draft.number(node, place + 2))
        for place in range(2, len(node.inputs), 3)
    ]
    made = draft.add("Concat", names, f"{node.outputs[0]}/Concat", "", axis=node.get("axis"))
    _give(draft, node, made, (0, 1))


def _gemm(draft: Draft, node: Node) -> None:
    """QGemm: its bias is in units of alpha and both scales, and it may give floats."""
    if node.get("alpha", 1.0) != 1.0:
        raise node.refuse("alpha is not 1")
    _wrapped("Gemm", ((0, 1, 2), (3, 4, 5)), (7, 8), 6)(draft, node)


def _carry(draft: Draft, node: Node) -> None:
    """An operator that takes whole numbers which are floats now, and gives numbers of the same type."""
    kinds = {draft.kinds[name] for name in node.inputs if name in draft.kinds}
    value, proto = node.outputs[0], node.proto
    if node.kind in ("Shape", "Size"):
        draft.nodes.append(proto)
        return
    if node.kind == "Cast" and (node.get("to") in (*FLOATS, TensorProto.INT32, TensorProto.INT64, *kinds)):
        draft.add("Identity", [node.inputs[0]], value)
        draft.kinds.update({} if node.get("to") in FLOATS else {value: node.get("to")})
        return
    counts = kinds <= {TensorProto.INT32, TensorProto.INT64} and node.kind in ("Add", "Sub", "Mul")
    if node.kind not in DATA and not counts:
        raise node.refuse("it computes with whole numbers that follow from the image")
    places = DATA.get(node.kind)
    for place in range(len(node.inputs)) if places is None else places:
        name = node.input(place)
        if (array := draft.array(name)) is not None:
            proto.input[place] = draft.constant(array, f"{name}/float")
    draft.nodes.append(proto)
    draft.kinds.update(dict.fromkeys(node.outputs, kinds.pop()))


REDUCED_BY_INPUT: Final = 18
"""The opset from which on axes are an input."""
DOMAINS: Final = ("", "ai.onnx", "com.microsoft")
ONE: Final = ((0, 1, 2),)
TWO: Final = ((0, 1, 2), (3, 4, 5))
QUANTISED: Final[dict[str, Callable[[Draft, Node], None]]] = {
    "ConvInteger": _integers("Conv"),
    "DequantizeLinear": _dequantize_linear,
    "DynamicQuantizeLinear": _dynamic,
    "MatMulInteger": _integers("MatMul"),
    "QGemm": _gemm,
    "QLinearAdd": _wrapped("Add", TWO, (6, 7)),
    "QLinearAveragePool": _wrapped("AveragePool", ONE, (3, 4)),
    "QLinearConcat": _concat,
    "QLinearConv": _wrapped("Conv", TWO, (6, 7), 8),
    "QLinearGlobalAveragePool": _wrapped("GlobalAveragePool", ONE, (3, 4)),
    "QLinearLeakyRelu": _wrapped("LeakyRelu", ONE, (3, 4)),
    "QLinearMatMul": _wrapped("MatMul", TWO, (6, 7)),
    "QLinearMul": _wrapped("Mul", TWO, (6, 7)),
    "QLinearSigmoid": _wrapped("Sigmoid", ONE, (3, 4)),
    "QLinearSoftmax": _wrapped("Softmax", ONE, (3, 4)),
    "QuantizeLinear": _quantize_linear,
}
"""ONNX's operators on quantised numbers, and those that ONNX Runtime's own tools write."""
