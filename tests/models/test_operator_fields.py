"""Of every operator in the table: a unit behind it looks no further than its box."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.pair import session

from convlens_models.graphs import layers
from convlens_models.manifest import INPUT, Layer
from convlens_models.measures.receptive_field import receptive_field
from convlens_models.vjp import OPERATORS


class Step(NamedTuple):
    """A node; its first input is the value before it, the others are constants, or values by name."""

    kind: str
    others: tuple[Any, ...] = ()
    attributes: Mapping[str, Any] = MappingProxyType({})
    outputs: int = 1


def step(kind: str, *others: Any, outputs: int = 1, **attributes: Any) -> Step:
    return Step(kind, others, attributes, outputs)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).uniform(0.5, 1.5, shape).astype(np.float32)


SIDE = 13
ENTRY = step("Conv", floats(4, 3, 3, 3) / 27, strides=[2, 2], pads=[1] * 4)  # Makes "map", (1, 4, 7, 7).
PAIRS = {"kernel_shape": [2, 2], "strides": [2, 2]}


def chain(*steps: Step, opset: int = 18) -> onnx.ModelProto:
    """`ENTRY`, then the steps."""
    nodes, constants, value = [], {}, INPUT
    for i, (kind, others, attributes, outputs) in enumerate((ENTRY, *steps)):
        names = [other if isinstance(other, str) else f"{i}.{j}" for j, other in enumerate(others)]
        constants |= {n: o for n, o in zip(names, others, strict=True) if not isinstance(o, str)}
        made = "map" if i == 0 else f"v{i}"
        extra = [f"{made}.{k}" for k in range(1, outputs)]
        nodes.append(helper.make_node(kind, [value, *names], [made, *extra], **attributes))
        value = made
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in ((INPUT, ("N", 3, "H", "W")), (value, None))
    ]
    weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def described(*steps: Step, opset: int = 18) -> Layer:
    model = chain(*steps, opset=opset)
    (layer,) = layers.describe(model, {model.graph.output[0].name: None}, SIDE)
    return layer


def boxes_of_change(model: onnx.ModelProto) -> np.ndarray:
    """[y, x, row, column]: whether the unit at (y, x) changes when that pixel does."""
    run, image = session(model), np.random.default_rng(0).random((1, 3, SIDE, SIDE), np.float32)
    (before,) = run.run(None, {INPUT: image})
    changed = np.zeros((*before.shape[2:], SIDE, SIDE), bool)
    for row in range(SIDE):
        for column in range(SIDE):
            other = image.copy()
            other[..., row, column] = 2 - other[..., row, column]
            (after,) = run.run(None, {INPUT: other})
            changed[..., row, column] = (after != before).any((0, 1))
    return changed


COMPARED = [step("Cast", to=TensorProto.FLOAT)]
SHUFFLE = step("Transpose", perm=[0, 2, 1, 3, 4])
NHWC, NCHW = (step("Transpose", perm=perm) for perm in ([0, 2, 3, 1], [0, 3, 1, 2]))
REDUCTIONS = [
    ([step("KIND", ints(1))], 2),
    ([step("KIND", ints(-3), keepdims=0), step("Unsqueeze", ints(1))], 2),
    ([step("KIND", ints(2, 3))], 0),
    ([step("KIND", ints(-1)), step("Add", "map")], 0),
    ([step("KIND")], 0),
    ([step("KIND", noop_with_empty_axes=1)], 2),
    ([NHWC, step("KIND", ints(3)), NCHW], 2),
    ([NHWC, step("KIND", ints(1)), NCHW, step("Add", "map")], 0),
]
SOFTMAX = [([step("KIND", axis=1)], 2), ([step("KIND")], 0), ([step("KIND", axis=2)], 0)]
POINTWISE = [([step("KIND")], 2), ([step("KIND"), step("MaxPool", **PAIRS)], 4)]
BINARY = [
    ([step("KIND", floats(4, 1, 1))], 2),
    ([step("KIND", floats(2, 1, 4, 7, 7)), step("ReduceMax", ints(0), keepdims=0)], 2),
    ([step("ReduceMean", ints(2, 3)), step("KIND", "map")], 0),
    ([step("ReduceMean", ints(1)), step("KIND", "map")], 2),
    ([step("Conv", floats(4, 4, 7, 7)), step("KIND", floats(1, 4, 5, 5))], 0),
]
COMPARISON = [([step("KIND", floats(1)), *COMPARED], 2)]
LOGICAL = [([step("Greater", floats(1)), step("KIND", np.array([True])), *COMPARED], 2)]
WINDOW = [
    ([step("KIND", **PAIRS)], 4),
    ([step("KIND", kernel_shape=[3, 2], strides=[1, 1], pads=[1, 0, 2, 1])], 2),
    ([step("KIND", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER")], 4),
    ([NHWC, step("KIND", **PAIRS), NCHW], 0),
]
GLOBAL = [([step("KIND"), step("Add", "map")], 0)]
SMALL = floats(4, 4, 3, 3)
SCALES = np.array([1, 1, 2, 2], np.float32)
OPSETS = {"Gelu": 20, "Swish": 24}  # Of operators that came later.
CASES: dict[str, list[tuple[list[Step], int]]] = {
    **{kind: [(steps, stride) for steps, stride in POINTWISE] for kind in (
        "Abs", "Clip", "Dropout", "Elu", "Erf", "Exp", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu",
        "Log", "Neg", "Reciprocal", "Relu", "Selu", "Sigmoid", "Softplus", "Sqrt", "Tanh",
        "Ceil", "Celu", "Cos", "Floor", "Gelu", "Mish", "Round", "Sign", "Sin", "Softsign", "Swish",
        "ThresholdedRelu",
    )},
    **dict.fromkeys(("Add", "Div", "Max", "Mean", "Min", "Mul", "Sub", "Sum", "Pow"), BINARY),
    **dict.fromkeys(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"), COMPARISON),
    **dict.fromkeys(("And", "Or"), LOGICAL),
    **{kind: REDUCTIONS for kind in OPERATORS if kind.startswith("Reduce")},
    **dict.fromkeys(("LogSoftmax", "Softmax"), SOFTMAX),
    **dict.fromkeys(("AveragePool", "LpPool", "MaxPool"), WINDOW),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), GLOBAL),
    "CumSum": [([step("KIND", np.array(2))], 0)],
    "DepthToSpace": [
        ([step("KIND", blocksize=2)], 1),
        ([step("KIND", blocksize=2, mode="CRD"), step("Conv", floats(2, 1, 3, 3))], 1),
    ],
    "Einsum": [([step("KIND", floats(7, 7), equation="nchw,wd->nchd")], 0)],
    "GatherND": [([step("KIND", ints(0)[None]), step("Reshape", ints(1, 4, 7, 7))], 0)],
    "InstanceNormalization": [([step("KIND", floats(4), floats(4))], 0)],
    "LayerNormalization": [
        ([step("KIND", floats(7))], 0),
        ([NHWC, step("KIND", floats(4), floats(4)), NCHW], 2),
    ],
    "Resize": [
        ([step("KIND", "", SCALES, mode=mode, coordinate_transformation_mode=way, nearest_mode=nearest)], 1)
        for mode in ("nearest", "linear", "cubic")
        for way in ("half_pixel", "pytorch_half_pixel", "asymmetric")
        for nearest in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
        if mode == "nearest" or nearest == "floor"
    ] + [
        ([step("KIND", "", SCALES, mode="linear", coordinate_transformation_mode="align_corners")], 0),
        ([step("KIND", "", "", ints(1, 4, 14, 14), mode="linear")], 0),
        ([step("KIND", "", SCALES**-1, mode="linear", antialias=1)], 4),
        ([step("KIND", "", SCALES**-1, mode="cubic")], 4),
        ([step("KIND", "", SCALES[2:] + 1, axes=[2, 3]), step("Conv", SMALL, strides=[3, 3])], 2),
        ([step("KIND", "", np.array([1, 1, 1.5, 1.5], np.float32), mode="linear")], 0),
    ],
    "ReverseSequence": [([step("KIND", ints(3), batch_axis=0, time_axis=1)], 0)],
    "ScatterElements": [([step("KIND", np.zeros((1, 2, 7, 7), np.int64), floats(1, 2, 7, 7), axis=1)], 0)],
    "ScatterND": [([step("KIND", ints(0)[None], floats(1, 4, 7, 7), reduction="add")], 0)],
    "SpaceToDepth": [([step("Pad", ints(0, 0, 1, 0, 0, 0, 0, 1)), step("KIND", blocksize=2)], 4)],
    "Tile": [([step("KIND", ints(1, 2, 1, 1))], 2), ([step("KIND", ints(1, 1, 2, 1))], 0)],
    "TopK": [
        ([step("KIND", ints(2), axis=1, outputs=2)], 2),
        ([step("KIND", ints(7), axis=2, outputs=2)], 0),
    ],
    "Trilu": [([step("KIND")], 2)],
    "BatchNormalization": [([step("KIND", *[floats(4)] * 4)], 2)],
    "Cast": [([step("KIND", to=TensorProto.FLOAT)], 2)],
    "CastLike": [([step("KIND", floats(1))], 2)],
    "Concat": [([step("KIND", "map", axis=1)], 2), ([step("KIND", "map", axis=-2)], 0)],
    "Conv": [
        ([step("KIND", SMALL, pads=[2, 0, 1, 1])], 2),
        ([step("KIND", SMALL, dilations=[2, 2], strides=[2, 2])], 4),
        ([step("KIND", SMALL, auto_pad="SAME_UPPER", strides=[2, 2])], 4),
    ],
    "ConvTranspose": [
        ([step("KIND", SMALL, strides=[2, 2])], 1),
        ([step("KIND", SMALL, strides=[2, 2], pads=[1, 0, 0, 1], output_padding=[1, 1])], 1),
        ([step("KIND", SMALL, dilations=[2, 2])], 2),
        ([step("KIND", SMALL, strides=[3, 3])], 0),
        ([step("KIND", SMALL, strides=[3, 3]), step("MaxPool", kernel_shape=[1, 1], strides=[3, 3])], 2),
        ([step("KIND", SMALL, strides=[2, 2], auto_pad="SAME_UPPER")], 0),
    ],
    "Expand": [
        ([step("KIND", ints(2, 4, 7, 7))], 2),
        ([step("ReduceMax", ints(2)), step("KIND", ints(1, 4, 7, 7))], 0),
    ],
    "Flatten": [([step("KIND", axis=3), step("Reshape", ints(1, 4, 7, 7))], 0)],
    "Gather": [
        ([step("KIND", ints(2, 0), axis=1)], 2),
        ([step("KIND", ints(6, 5, 4, 3, 2, 1, 0), axis=2)], 0),
        ([step("KIND", np.array(1), axis=3), step("Unsqueeze", ints(3))], 0),
    ],
    "GatherElements": [
        ([step("KIND", np.zeros((1, 2, 7, 7), np.int64), axis=1)], 2),
        ([step("KIND", np.zeros((1, 4, 7, 7), np.int64), axis=3)], 0),
    ],
    "Gemm": [
        ([step("Reshape", ints(28, 7)), step("KIND", floats(7, 7)), step("Reshape", ints(1, 4, 7, 7))], 0),
    ],
    "LRN": [([step("KIND", size=3, alpha=1.0)], 2)],
    "MatMul": [([step("KIND", floats(7, 7))], 0)],
    "Not": [([step("Greater", floats(1)), step("KIND"), *COMPARED], 2)],
    "PRelu": [([step("KIND", floats(4, 1, 1))], 2)],
    "Pad": [
        ([step("KIND", ints(0, 0, 2, 1, 0, 0, 1, 3))], 2),
        ([step("KIND", ints(0, 0, -2, -1, 0, 0, -1, 0))], 2),
        ([step("KIND", ints(2, 1), np.float32(0.5), ints(-1))], 2),
        ([step("KIND", ints(0, 0, 2, 2, 0, 0, 2, 2), mode="reflect")], 0),
    ],
    "Reshape": [
        ([step("KIND", ints(1, 7, 7, 4)), step("KIND", ints(1, 4, 7, 7))], 0),
        ([step("KIND", ints(1, 2, 2, 7, 7)), SHUFFLE, step("KIND", ints(0, 4, 7, 7))], 2),
    ],
    "Slice": [
        ([step("KIND", ints(1, 2), ints(7, 99), ints(2, 3), ints(2, 1))], 0),
        ([step("KIND", ints(1, 2), ints(7, 99), ints(2, 3))], 2),
        ([step("KIND", ints(1, 0), ints(7, 99), ints(-2, -1), ints(2, 2))], 4),
        ([step("KIND", ints(-1), ints(-99), ints(3), ints(-1))], 0),
        ([step("KIND", ints(1), ints(3), ints(1))], 2),
    ],
    "Split": [
        ([step("KIND", ints(1, 3), axis=1, outputs=2)], 2),
        ([step("KIND", ints(3, 4), axis=3, outputs=2)], 0),
    ],
    "Squeeze": [
        ([step("ReduceMax", ints(1)), step("KIND", ints(1)), step("Unsqueeze", ints(0))], 2),
        ([step("ReduceMax", ints(2)), step("KIND", ints(2)), step("Unsqueeze", ints(2))], 0),
    ],
    "Transpose": [
        ([NHWC, step("Relu"), NCHW], 2),
        ([step("KIND", perm=[0, 1, 3, 2])], 0),
        ([step("KIND"), step("KIND")], 2),
    ],
    "Unsqueeze": [
        ([step("KIND", ints(0, 5)), step("Squeeze", ints(0, -1))], 2),
        ([step("KIND", ints(-1)), step("Squeeze", ints(0))], 0),
    ],
    "Where": [([step("Greater", floats(1)), step("KIND", "map", floats(1))], 2)],
}  # fmt: skip


@pytest.mark.parametrize("kind", OPERATORS)
def test_no_pixel_beyond_its_field_changes_a_unit_behind_an_operator(kind: str) -> None:
    """Of every operator in the table; asked of ONNX Runtime: where nothing changes, there is no gradient."""
    for steps, stride in CASES[kind]:
        own = [part._replace(kind=kind) if part.kind == "KIND" else part for part in steps]
        opset = OPSETS.get(kind, 18)
        layer, changed = described(*own, opset=opset), boxes_of_change(chain(*own, opset=opset))
        assert layer.stride == stride, own
        for y, x in np.ndindex(changed.shape[:2]):
            box = receptive_field(layer, y, x, (SIDE, SIDE)).clipped((SIDE, SIDE))
            changed[(y, x, *box.pixels)] = False
        assert not changed.any(), own


def test_an_unknown_operator_sees_everything() -> None:
    unknown = step("Hardmax")
    assert (described(unknown).stride, described(unknown).receptive_field) == (0, SIDE)


def test_pads_of_their_own_give_the_field_of_a_convolution_with_pads() -> None:
    apart = described(step("Pad", ints(0, 0, 1, 1, 0, 0, 1, 1)), step("Conv", SMALL))
    together = described(step("Conv", SMALL, pads=[1] * 4))
    assert apart.model_dump(exclude={"name", "tensor", "weight"}) == together.model_dump(
        exclude={"name", "tensor", "weight"}
    )


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize(
    ("kind", "opset"), [("ReduceSum", 16), ("ReduceSum", 18), ("ReduceMean", 16), ("ReduceMean", 18)]
)
def test_reductions_see_all_along_the_axes_that_they_reduce(kind: str, opset: int, keepdims: int) -> None:
    """The axes of ReduceMean became an input with opset 18."""

    def field(*axes: int) -> tuple[int, int, float]:
        by_input = (kind, opset) != ("ReduceMean", 16)
        stated = step(kind, ints(*axes)) if by_input else step(kind, axes=list(axes))
        layer = described(
            stated._replace(attributes={**stated.attributes, "keepdims": keepdims}), opset=opset
        )
        return layer.stride, layer.receptive_field, layer.receptive_field_start

    assert field(2, 3) == (0, SIDE, (SIDE - 1) / 2)
    assert field(1) == (2, 3, 0)


def test_a_transposed_convolution_sees_the_union_of_what_its_phases_see() -> None:
    """Places (o + 1 - 2) / 2 to (o + 1) / 2 of the map, of stride 2, which see a pixel to either side."""
    layer = described(step("ConvTranspose", SMALL, strides=[2, 2], pads=[1] * 4))
    assert (layer.stride, layer.receptive_field, layer.receptive_field_start) == (1, 5, 0)
