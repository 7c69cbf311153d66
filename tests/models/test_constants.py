"""What follows from constants is computed at the import: weights, and the branches of an If."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper
from support.foreign_onnx import classifier, constant, node, save, weight
from support.served import logits_equal_the_file

from convlens.errors import InvalidArgument
from convlens_models.importing.canonicalise import read
from convlens_models.importing.onnx_import import add_onnx


def attributed(**value: Any) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["c"], name="c", **value)


VALUES = {
    "value_float": attributed(value_float=2.5),
    "value_floats": attributed(value_floats=[float(i) for i in range(8)]),
    "value": attributed(value=constant("", np.float32([1, 2, 3, 4, 5, 6, 7, 8]))),
}


@pytest.mark.parametrize("kind", VALUES)
def test_floats_by_every_attribute(kind: str, tmp_path):
    middle = [
        VALUES[kind],
        node("Reshape", ["c", "four"], "column"),
        node("Mul", ["relu", "column"], "middle"),
    ]
    logits_equal_the_file(tmp_path, classifier(middle, [constant("four", np.int64([1, -1, 1, 1]))]))


def test_integers_by_every_attribute(tmp_path):
    middle = [
        attributed(value_ints=[2, 3]),
        helper.make_node("Constant", [], ["one"], value_int=1),
        node("Gather", ["c", "one"], "three"),
        node("Unsqueeze", ["three", "nought"], "axis"),
        node("Squeeze", ["axis", "nought"], "scalar"),
        node("Cast", ["scalar"], "factor", to=TensorProto.FLOAT),
        node("Mul", ["relu", "factor"], "middle"),
    ]
    model = classifier(middle, [constant("nought", np.int64([0]))])
    logits_equal_the_file(tmp_path, model)
    assert "Cast" not in {each.op_type for each in read(tmp_path / "foreign.onnx").graph.node}


def test_weights_that_are_computed_are_weights(tmp_path):
    filled = constant("", np.float32([0.1]))
    middle = [
        node("ConstantOfShape", ["shape"], "ones", value=filled),
        node("Mul", ["ones", "tenth"], "kernel"),
        node("Conv", ["relu", "kernel"], "middle"),
    ]
    constants = [
        constant("shape", np.int64([4, 8, 3, 3])),
        weight("tenth", 4, 1, 1, 1),
        weight("fc.weight", 5, 4),
    ]
    model = classifier(middle, constants)
    model.graph.initializer.remove(next(t for t in model.graph.initializer if list(t.dims) == [5, 8]))
    manifest = logits_equal_the_file(tmp_path, model)
    assert manifest.layer("middle").weight == "kernel"
    assert manifest.multiply_adds == 16 * 16 * 8 * 27 + 14 * 14 * 4 * 72 + 5 * 4


def branch(*nodes: onnx.NodeProto, result: str) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "branch", [], [onnx.ValueInfoProto(name=result)])


def choosing(condition: str) -> onnx.NodeProto:
    """The branches read "relu" and "factor" of the outer graph, and have values of the same names."""
    return node(
        "If",
        [condition],
        "middle",
        then_branch=branch(
            helper.make_node("Constant", [], ["a"], value_float=3.0),
            node("Mul", ["relu", "a"], "b"),
            node("Add", ["b", "factor"], "c"),
            result="c",
        ),
        else_branch=branch(node("Identity", ["relu"], "b"), result="b"),
    )


SIZED = [
    node("Shape", ["relu"], "shape"),
    node("Size", ["shape"], "rank"),
    node("Equal", ["rank", "number"], "condition"),
]
WIDE = [
    node("Shape", ["relu"], "shape"),
    node("Gather", ["shape", "three"], "width"),
    node("Greater", ["width", "number"], "condition"),
]
THREE = constant("three", np.int64(3))
BRANCHES = {
    "constant": ([], [constant("condition", np.bool_(True))]),
    "other": ([], [constant("condition", np.bool_(False))]),
    "folded": ([node("Less", ["three", "number"], "condition")], [THREE, constant("number", np.int64(4))]),
    "rank": (SIZED, [constant("number", np.int64(4))]),
    "other rank": (SIZED, [constant("number", np.int64(3))]),
    "width": (WIDE, [THREE, constant("number", np.int64(15))]),
}


@pytest.mark.parametrize("case", BRANCHES)
def test_the_branch_that_is_always_taken_takes_the_place_of_an_if(case: str, tmp_path):
    nodes, constants = BRANCHES[case]
    more = [constant("factor", np.float32([[[[0.5]]]])), *constants]
    manifest = logits_equal_the_file(tmp_path, classifier([*nodes, choosing("condition")], more))
    assert {"conv", "relu", "middle", "fc"} < {layer.name for layer in manifest.layers}


def test_branches_within_branches(tmp_path):
    inner = choosing("condition")
    inner.output[0] = "b"
    outer = node("If", ["condition"], "middle", then_branch=branch(inner, result="b"))
    other = branch(node("Identity", ["relu"], "d"), result="d")
    outer.attribute.append(helper.make_attribute("else_branch", other))
    constants = [constant("factor", np.float32(0.5)), constant("condition", np.bool_(True))]
    logits_equal_the_file(tmp_path, classifier([outer], constants))


def bright() -> onnx.ModelProto:
    nodes = [
        node("ReduceMax", ["relu"], "most", keepdims=0),
        node("Greater", ["most", "half"], "condition"),
        choosing("condition"),
    ]
    return classifier(nodes, [constant("half", np.float32(0.5)), constant("factor", np.float32(0.5))])


def wide() -> onnx.ModelProto:
    constants = [THREE, constant("number", np.int64(40)), constant("factor", np.float32(0.5))]
    return classifier([*WIDE, choosing("condition")], constants, size=("N", 3, "H", "W"))


def sparse() -> onnx.ModelProto:
    few = helper.make_sparse_tensor(constant("few", np.float32([1])), constant("", np.int64([2])), [8])
    scattered = helper.make_node("Constant", [], ["few"], name="few")
    scattered.attribute.append(
        AttributeProto(name="sparse_value", type=AttributeProto.SPARSE_TENSOR, sparse_tensor=few)
    )
    return classifier([scattered, node("Mul", ["relu", "few"], "middle")])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            bright,
            r"If \(node of middle\) takes its branch by the image.*export the network with a fixed size",
        ),
        (wide, r"If \(node of middle\) takes its branch by the image"),
        (sparse, "the constant 'few' is sparse: export it as a dense tensor"),
    ],
)
def test_what_is_not_constant_is_refused_by_name(make, message: str, tmp_path):
    with pytest.raises(InvalidArgument, match=message):
        add_onnx(tmp_path / "m", save(make(), tmp_path), "x")
