"""Files with channels last inside: their maps have channels first, and the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.foreign_onnx import classifier, constant, node, weight
from support.served import gradient_equals_the_slope, logits_equal_the_file

from convlens_models.importing import canonicalise, verify
from convlens_models.runtime import ort

FIRST, LAST = [0, 3, 1, 2], [0, 2, 3, 1]
SLOPES = constant("slopes", np.linspace(0.5, 1.5, 8, dtype=np.float32))
POSITIONS = constant("positions", np.random.default_rng(0).random((1, 16, 16, 8)).astype(np.float32))


def ints(name: str, *values: int) -> onnx.TensorProto:
    return constant(name, np.int64(values))


SQUEEZED = [
    node("ReduceMean", ["last"], "means", axes=[1, 2], keepdims=1),
    node("Transpose", ["means"], "means first", perm=FIRST),
    node("Conv", ["means first", "mix"], "mixed"),
    node("Transpose", ["mixed"], "mixed last", perm=LAST),
    node("Sigmoid", ["mixed last"], "gates"),
    node("Mul", ["last", "gates"], "y"),
]
ROWS: dict[str, tuple[list[onnx.NodeProto], list[onnx.TensorProto]]] = {
    "activation": ([node("Sigmoid", ["last"], "y")], []),
    "a number of each channel": ([node("Mul", ["last", "slopes"], "y")], [SLOPES]),
    "a number of each position": ([node("Add", ["positions", "last"], "y")], [POSITIONS]),
    "slopes": ([node("PRelu", ["last", "slopes"], "y")], [SLOPES]),
    "two maps": ([node("Tanh", ["last"], "t"), node("Mul", ["t", "last"], "y")], []),
    "pads": ([node("Pad", ["last", "pads"], "y")], [ints("pads", 0, 0, 2, 0, 0, 1, 0, 0)]),
    "squeeze and excite": (SQUEEZED, [weight("mix", 8, 8, 1, 1)]),
    "joined": (
        [
            node("Relu", ["last"], "t"),
            node("Concat", ["t", "last"], "z", axis=3),
            helper.make_node("Split", ["z"], ["s0", "s1"], axis=-1),
            node("Sub", ["s0", "s1"], "y"),
        ],
        [],
    ),
    "one map, turned twice": (
        [node("Transpose", ["relu"], "other", perm=LAST), node("Add", ["other", "last"], "y")],
        [],
    ),
    "softmax of channels": ([node("Softmax", ["last"], "y", axis=3)], []),
    "a sum that stays": (
        [node("ReduceSum", ["last", "three"], "t", keepdims=1), node("Mul", ["t", "last"], "y")],
        [ints("three", 3)],
    ),
    "what cannot be pushed": (
        [
            node("Reshape", ["last", "rows"], "t"),
            node("Relu", ["t"], "u"),
            node("Reshape", ["u", "back"], "y"),
        ],
        [ints("rows", 0, 256, 8), ints("back", 0, 16, 16, 8)],
    ),
}


def between(nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]) -> onnx.ModelProto:
    """A classifier of pictures (N, 32, 32, 3); the nodes make "y" of the map "last", its channels last."""
    nodes = [onnx.NodeProto.FromString(each.SerializeToString()) for each in nodes]
    middle = [
        node("Transpose", ["relu"], "last", perm=LAST),
        *nodes,
        node("Transpose", ["y"], "middle", perm=FIRST),
    ]
    model = classifier(middle, constants, end="", size=("N", 32, 32, 3))
    model.graph.node[0].input[0] = "turned"
    model.graph.node.insert(0, node("Transpose", ["data"], "turned", perm=FIRST))
    return model


def last(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("case", ROWS)
def test_what_is_computed_with_channels_last_is_a_map(case: str, tmp_path: Path):
    model = between(*ROWS[case])
    manifest = logits_equal_the_file(tmp_path, model, last)
    gradient_equals_the_slope(tmp_path / "m", model, last)
    left = [
        each
        for each in canonicalise.read(tmp_path / "foreign.onnx").graph.node
        if each.op_type == "Transpose"
    ]
    if case == "what cannot be pushed":
        assert left
        return
    assert not left
    maps = {layer.name: layer for layer in manifest.layers}
    assert maps["y"].shape[0] == 8
    assert all(layer.shape[0] in (8, 16, 1) for layer in manifest.layers if len(layer.shape) == 3)
    if case not in ("squeeze and excite", "pads"):  # Pads that differ move the fields apart.
        assert (maps["y"].stride, maps["y"].receptive_field) == (2, 3)


def test_one_channel_that_a_reshape_moves(tmp_path: Path):
    """tf2onnx writes a Reshape where one channel is to move."""
    model = classifier(end="", size=("N", 32, 32, 1))
    model.graph.initializer[0].CopyFrom(weight("conv.weight", 8, 1, 3, 3))
    model.graph.initializer.append(ints("shape", -1, 1, 32, 32))
    model.graph.node[0].input[0] = "turned"
    model.graph.node.insert(0, node("Reshape", ["data", "shape"], "turned"))
    weights = np.float32([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)
    manifest = logits_equal_the_file(tmp_path, model, lambda x: last((x * weights).sum(1, keepdims=True)))
    assert manifest.layer("relu").receptive_field == 3
    assert not manifest.dynamic_size, "the file, whose Reshape holds its size, is no witness for others"


TURNED = [
    node("Transpose", ["x"], "first", perm=FIRST),
    node("Relu", ["first"], "relu"),
    node("Transpose", ["relu"], "last", perm=LAST),
]


def values_equal_the_file(
    folder: Path, nodes: list[onnx.NodeProto], ranks: dict[str, int], **constants: np.ndarray
):
    """Compare values of these ranks that nodes make of the map "last"; the kinds of the nodes as read."""
    graph = helper.make_graph(
        [*TURNED, *nodes],
        "turned",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", "H", "W", 3))],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank)
            for name, rank in ranks.items()
        ],
        [constant(name, value) for name, value in constants.items()],
    )
    path = folder / "foreign.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    images = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    expected = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(
        list(ranks), {"x": last(images)}
    )
    model = canonicalise.read(path)
    found = verify.run(model, folder, list(ranks), {model.graph.input[0].name: images})
    for value, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, wanted, atol=1e-6)
    return [each.op_type for each in model.graph.node]


@pytest.mark.parametrize("name", ["scales", "sizes"])
def test_maps_are_resized_along_their_axes(name: str, tmp_path: Path):
    value = np.float32([1, 2, 3, 1]) if name == "scales" else np.int64([2, 8, 9, 3])
    inputs = ["last", "", name] if name == "scales" else ["last", "", "", name]
    resized = node("Resize", inputs, "y", mode="linear")
    kinds = values_equal_the_file(tmp_path, [resized, node("Neg", ["y"], "z")], {"z": 4}, **{name: value})
    assert kinds == ["Relu", "Resize", "Neg", "Transpose"]


def test_what_leaves_the_graph_or_is_asked_for_its_shape_is_as_the_file_has_it(tmp_path: Path):
    nodes = [
        node("Neg", ["last"], "y"),
        node("Shape", ["y"], "sizes"),
        node("Cast", ["sizes"], "z", to=TensorProto.FLOAT),
        node("ReduceMean", ["y"], "means", axes=[1, 2], keepdims=0),
        node("Mul", ["means", "three"], "scores"),
    ]
    three = np.float32([1, 2, 3])
    values_equal_the_file(tmp_path, nodes, {"y": 4, "z": 1, "scores": 2, "last": 4}, three=three)
