"""The box of a unit is where its gradient is: in random networks, in the built-in ones, and at borders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from support.networks import random_module, save_weights
from support.pair import Pair, session

from convlens_models.graphs import layers
from convlens_models.importing.importer import add_architecture
from convlens_models.manifest import INPUT, Layer
from convlens_models.measures.receptive_field import Box, receptive_field
from convlens_models.network import Network
from convlens_models.vjp import OPERATORS

SIZE = 57


@pytest.mark.parametrize(
    ("box", "moved"),
    [
        (Box(2, 3, 7, 8), Box(2, 3, 7, 8)),
        (Box(-2, 8, 3, 13), Box(0, 5, 5, 10)),
        (Box(18, -9, 23, -4), Box(15, 0, 20, 5)),
        (Box(-3, 2, 22, 27), Box(0, 0, 20, 10)),
    ],
)
def test_boxes_moved_into_an_image_keep_their_size_where_it_is_large_enough(box: Box, moved: Box) -> None:
    assert box.moved_into((10, 20)) == moved


def positive_stack(rng: np.random.Generator, alike: bool) -> tuple[Pair, str]:
    """Three to five convolutions and average pools with positive kernels, so that no path cancels another.

    Args:
        alike: pad rows and columns alike; the begin and the end still differ.
    """
    pair, value = Pair(rng.random((1, 3, SIZE, SIZE))), INPUT
    for _ in range(rng.integers(3, 6)):
        kernel = int(rng.integers(2, 5))
        stride = int(rng.integers(1, min(kernel, 3) + 1))
        if rng.random() < 0.5:
            begin, end = rng.integers(0, kernel, 2)
            pads = [begin, begin, end, end] if alike else rng.integers(0, kernel, 4)
            value = convolution(pair, value, kernel, stride, pads)
        else:
            value = pool(pair, value, kernel, stride, int(rng.integers(0, kernel // 2 + 1)))
    return pair, value


def convolution(pair: Pair, source: str, kernel: int, stride: int, pads: Sequence[int]) -> str:
    """Padded differently at each side, (top, left, bottom, right)."""
    weight = pair.const(np.full((3, 3, kernel, kernel), 1 / kernel**2, np.float32))
    top, left, bottom, right = (int(pad) for pad in pads)

    def reference(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.pad(x, (left, right, top, bottom)), w, stride=stride)

    attributes = {"strides": [stride] * 2, "pads": [top, left, bottom, right]}
    return str(pair.op("Conv", source, weight, ref=reference, **attributes))


def pool(pair: Pair, source: str, kernel: int, stride: int, pad: int) -> str:
    def reference(x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(x, kernel, stride, pad, ceil_mode=True)

    attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4, "ceil_mode": 1}
    return str(pair.op("AveragePool", source, ref=reference, **attributes))


def support_of(value: torch.Tensor, images: torch.Tensor, y: int, x: int) -> Box:
    """The smallest box around the pixels that the units at (y, x) have a gradient to."""
    (gradient,) = torch.autograd.grad(value[0, :, y, x].sum(), images, retain_graph=True)
    rows, columns = gradient[0].abs().sum(0).nonzero().T
    return Box(int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)


def within(inner: Box, outer: Box) -> bool:
    begins = inner.left >= outer.left and inner.top >= outer.top
    return begins and inner.right <= outer.right and inner.bottom <= outer.bottom


def positions(side: int) -> list[int]:
    """Both borders, their neighbours, and the middle."""
    return sorted({0, min(1, side - 1), side // 2, max(0, side - 2), side - 1})


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_the_gradient_of_a_unit_fills_its_box(seed: int, alike: bool) -> None:
    """Exactly where both axes have the same field; else the square is around both."""
    pair, name = positive_stack(np.random.default_rng(seed), alike)
    (layer,) = layers.describe(pair.model(), {name: None}, SIZE)
    value, images = pair.values[name], pair.values[INPUT]
    for y in positions(value.shape[2]):
        for x in positions(value.shape[3]):
            box = receptive_field(layer, y, x, (SIZE, SIZE))
            seen = support_of(value, images, y, x)
            assert seen == box.clipped((SIZE, SIZE)) if alike else within(seen, box), (layer, y, x)


@pytest.mark.parametrize("architecture", ["squeezenet1_0", "patterns"])
@pytest.mark.parametrize("size", [(141, 120), (123, 158)])
def test_built_in_networks_look_no_further_than_the_box(
    architecture: str, size: tuple[int, int], tmp_path: Path
) -> None:
    """With real ReLUs and maxima the gradient lies in the box, and comes near its sides over many units."""
    module = random_module(architecture)
    manifest = add_architecture(tmp_path, architecture, save_weights(module, tmp_path / "w.safetensors"))
    network = Network(module, manifest.mean, manifest.std).double()
    images = torch.rand(1, 3, *size, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    images.requires_grad_()
    spatial = [layer for layer in manifest.layers if len(layer.shape) == 3 and layer.stride][::3]
    for layer, value in zip(
        spatial, network.taps(images, [layer.name for layer in spatial]).values(), strict=True
    ):
        for y, x in (
            (0, 0),
            (value.shape[2] // 2, value.shape[3] // 2),
            (value.shape[2] - 1, value.shape[3] - 1),
        ):
            box = receptive_field(layer, y, x, size).clipped(size)
            seen = support_of(value, images, y, x)
            assert within(seen, box), (layer, y, x)
            assert (seen.right - seen.left) * 1.25 >= box.right - box.left, layer


def test_a_position_that_sees_everything_has_the_whole_image() -> None:
    layer = Layer(
        name="pool", kind="Pool", tensor="pool", shape=(8, 1, 1), stride=0, receptive_field=96,
        receptive_field_start=47.5,
    )  # fmt: skip
    assert receptive_field(layer, 0, 0, (120, 200)) == (0, 0, 200, 120)


def test_what_is_scaled_by_a_global_value_sees_everything() -> None:
    """As in squeeze-and-excitation: a map times something that the whole image decides."""
    nodes = [
        helper.make_node("Relu", [INPUT], ["map"]),
        helper.make_node("GlobalAveragePool", ["map"], ["gate"]),
        helper.make_node("Mul", ["map", "gate"], ["scaled"]),
        helper.make_node("MaxPool", ["scaled"], ["pooled"], kernel_shape=[3, 3], strides=[2, 2]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in ((INPUT, ("N", 3, "H", "W")), ("pooled", None))
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "gated", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 18)]
    )
    (layer,) = layers.describe(model, {"pooled": None}, 20)
    assert (layer.stride, layer.receptive_field) == (0, 20)
    assert receptive_field(layer, 3, 1, (20, 20)) == (0, 0, 20, 20)


@pytest.mark.parametrize(
    ("box", "clipped"),
    [
        (Box(-3, 2, 5, 9), (0, 2, 5, 8)),
        (Box(7, 7, 30, 30), (7, 7, 10, 8)),
        (Box(-9, -9, -2, -2), (0, 0, 1, 1)),
        (Box(12, 12, 15, 15), (9, 7, 10, 8)),
    ],
)
def test_boxes_are_clipped_to_at_least_a_pixel(box: Box, clipped: tuple[int, ...]) -> None:
    assert box.clipped((8, 10)) == clipped


def test_pixels_index_an_image() -> None:
    image = np.zeros((3, 8, 10))
    image[(..., *Box(2, 1, 5, 3).pixels)] = 1
    assert image.sum() == 3 * 3 * 2


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
CASES: dict[str, list[tuple[list[Step], int]]] = {
    **{kind: [(steps, stride) for steps, stride in POINTWISE] for kind in (
        "Abs", "Clip", "Dropout", "Elu", "Erf", "Exp", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu",
        "Log", "Neg", "Reciprocal", "Relu", "Selu", "Sigmoid", "Softplus", "Sqrt", "Tanh",
    )},
    **dict.fromkeys(("Add", "Div", "Mul", "Sub", "Sum", "Pow"), BINARY),
    **dict.fromkeys(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"), COMPARISON),
    **dict.fromkeys(("And", "Or"), LOGICAL),
    **{kind: REDUCTIONS for kind in OPERATORS if kind.startswith("Reduce")},
    **dict.fromkeys(("LogSoftmax", "Softmax"), SOFTMAX),
    **dict.fromkeys(("AveragePool", "LpPool", "MaxPool"), WINDOW),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), GLOBAL),
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
    "Reshape": [([step("KIND", ints(1, 7, 7, 4)), step("KIND", ints(1, 4, 7, 7))], 0)],
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
        layer, changed = described(*own), boxes_of_change(chain(*own))
        assert layer.stride == stride, own
        for y, x in np.ndindex(changed.shape[:2]):
            box = receptive_field(layer, y, x, (SIDE, SIDE)).clipped((SIDE, SIDE))
            changed[(y, x, *box.pixels)] = False
        assert not changed.any(), own


def test_an_unknown_operator_sees_everything() -> None:
    scaled = step("Resize", "", np.array([1, 1, 2, 2], np.float32), mode="linear")
    assert (described(scaled).stride, described(scaled).receptive_field) == (0, SIDE)
    assert described(step("InstanceNormalization", floats(4), floats(4))).stride == 0


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
