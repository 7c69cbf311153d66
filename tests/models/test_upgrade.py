"""Old operators, and nodes left in training mode: after `upgrade` they compute what the file did."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.foreign_onnx import constant

from convlens.errors import InvalidArgument
from convlens_models.importing.upgrade import OLDEST, TARGET, upgrade
from convlens_models.runtime import ort

SHAPE = (2, 4, 6, 6)
IMAGES = np.random.default_rng(0).normal(0, 1, SHAPE).astype(np.float32)

Row = tuple[range, list[onnx.NodeProto], list[onnx.TensorProto]]


def of(kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[onnx.NodeProto]:
    names = ["y", *(f"y{i}" for i in range(1, outputs))]
    return [helper.make_node(kind, ["x", *inputs], names, name=kind, **attributes)]


CHANNELS = [constant(name, np.float32([0.5, 1, 2, 3])) for name in ("scale", "bias", "mean", "variance")]
FEW = constant("scales", np.float32([1, 1, 0.5, 0.5]))
MANY = constant("scales", np.float32([1, 1, 2, 2]))
SQUEEZED = [
    helper.make_node("GlobalAveragePool", ["x"], ["p"]),
    helper.make_node("Squeeze", ["p"], ["s"], axes=[2, 3]),
    helper.make_node("Unsqueeze", ["s"], ["y"], axes=[2]),
]
ROWS: dict[str, Row] = {
    "clip": (range(7, 11), of("Clip", min=-0.5, max=0.25), []),
    "clip above": (range(7, 11), of("Clip", max=0.25), []),
    "pad": (range(7, 11), of("Pad", pads=[0, 0, 1, 2, 0, 0, 0, 1], value=3.0), []),
    "pad reflect": (range(7, 11), of("Pad", pads=[0, 0, 1, 2, 0, 0, 0, 1], mode="reflect"), []),
    "slice": (range(7, 10), of("Slice", starts=[1, 0], ends=[3, 99], axes=[1, 2]), []),
    "slice of first axes": (range(7, 10), of("Slice", starts=[0, 1], ends=[99, 3]), []),
    "squeeze": (range(7, 13), SQUEEZED, []),
    "sum": (range(7, 13), of("ReduceSum", axes=[1], keepdims=0), []),
    "sum of all": (range(7, 13), of("ReduceSum"), []),
    "split": (range(7, 13), of("Split", outputs=2, axis=1, split=[1, 3]), []),
    "split evenly": (range(7, 13), of("Split", outputs=2, axis=1), []),
    "top k": (range(7, 10), of("TopK", outputs=2, axis=1, k=2), []),
    "upsample": (range(7, 9), of("Upsample", scales=[1.0, 1.0, 2.0, 3.0]), []),
    "upsample linear": (range(7, 9), of("Upsample", scales=[1.0, 1.0, 2.0, 2.0], mode="linear"), []),
    "upsample by input": (range(9, 10), of("Upsample", "scales"), [MANY]),
    "resize": (range(10, 11), of("Resize", "scales", mode="linear"), [MANY]),
    "resize nearest": (range(10, 11), of("Resize", "scales"), [MANY]),
    "resize down": (range(10, 11), of("Resize", "scales"), [FEW]),
    "softmax": (range(7, 13), of("Softmax"), []),
    "softmax of last": (range(7, 13), of("Softmax", axis=3), []),
    "log softmax": (range(7, 13), of("LogSoftmax", axis=2), []),
    "batch norm": (range(7, 16), of("BatchNormalization", "scale", "bias", "mean", "variance"), CHANNELS),
    "dropout": (range(7, 12), of("Dropout", ratio=0.5), []),
    "scatter": (
        range(9, 11),
        of("Scatter", "where", "what", axis=1),
        [constant("where", np.int64([[[[2]]]])), constant("what", np.float32([[[[9]]]]))],
    ),
}


def model_of(opset: int, nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto]) -> onnx.ModelProto:
    """IR 3: what the nodes make of "x", the constants listed among the inputs."""
    infos = [helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in tensors]
    graph = helper.make_graph(
        [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes],
        "old",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 4, 6, 6)), *infos],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=3)


def run(model: onnx.ModelProto) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options).run(["y"], {"x": IMAGES})[0]


@pytest.mark.parametrize("case", ROWS)
def test_an_old_operator_computes_what_it_did(case: str):
    opsets, nodes, tensors = ROWS[case]
    for opset in {opsets[0], opsets[-1]}:
        model = model_of(opset, nodes, tensors)
        expected = run(model)
        assert upgrade(model) == []
        assert model.opset_import[0].version == TARGET
        assert [info.name for info in model.graph.input] == ["x"]
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        np.testing.assert_allclose(run(model), expected, rtol=1e-6, atol=1e-7)


def test_a_softmax_over_one_position_stays_one_node():
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Softmax", ["p"], ["y"]),
    ]
    model = model_of(9, nodes, [])
    upgrade(model)
    assert [node.op_type for node in model.graph.node] == ["GlobalAveragePool", "Softmax"]
    assert run(model).sum(1) == pytest.approx(1)


@pytest.mark.parametrize(
    ("opset", "options"),
    [(9, {"outputs": 5}), (14, {"outputs": 3, "training_mode": 1}), (17, {"training_mode": 1})],
)
def test_batch_norms_in_training_mode_get_their_stored_statistics(opset: int, options: dict[str, int]):
    norm = of("BatchNormalization", "scale", "bias", "mean", "variance", **options)
    model = model_of(opset, norm, CHANNELS)
    assert ["1 nodes were left in training mode (BatchNormalization)" in note for note in upgrade(model)] == [
        True
    ]
    plain = of("BatchNormalization", "scale", "bias", "mean", "variance")
    np.testing.assert_array_equal(run(model), run(model_of(17, plain, CHANNELS)))


def test_dropout_is_off():
    on = constant("on", np.bool_(True))
    model = model_of(13, of("Dropout", "", "on", outputs=2), [on])
    assert len(upgrade(model)) == 1
    np.testing.assert_array_equal(run(model), IMAGES)


def test_what_no_newer_opset_can_say_is_refused():
    norm = of("BatchNormalization", "scale", "bias", "mean", "variance", spatial=0)
    with pytest.raises(InvalidArgument, match=r"BatchNormalization \(BatchNormalization\).*spatial=0"):
        upgrade(model_of(7, norm, CHANNELS))
    for opset in (OLDEST - 1, 27):
        with pytest.raises(InvalidArgument, match=f"model.opset = {opset}: must be from 7 to 26"):
            upgrade(model_of(opset, of("Relu"), []))
