"""Quantised files: values by their own scales, gradients straight through the rounding within the range."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from support.foreign_onnx import classifier, constant, node, save
from support.served import gradient_of, logits_equal_the_file

from convlens.errors import InvalidArgument
from convlens_models.graphs import autodiff
from convlens_models.importing import canonicalise, verify
from convlens_models.importing.onnx_import import add_onnx
from convlens_models.runtime import ort

RANDOM = np.random.default_rng(0)
SHAPE = (2, 3, 8, 8)
IMAGES = RANDOM.normal(0, 1, SHAPE).astype(np.float32)


def bytes_of(*shape: int, low: int = 0, high: int = 255, dtype: type = np.uint8) -> np.ndarray:
    return RANDOM.integers(low, high, shape, endpoint=True).astype(dtype)


class Row(NamedTuple):
    """Nodes that make "y" of whole numbers "q" (scale 0.03, zero point 120) and their constants, by name."""

    nodes: list[onnx.NodeProto]
    constants: dict[str, Any] = {}  # noqa: RUF012
    rank: int = 4


def of(kind: str, inputs: str, value: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), value.split(), name=f"node of {value}", **attributes)


def own(kind: str, inputs: str, value: str = "r", **attributes: Any) -> onnx.NodeProto:
    made = of(kind, inputs, value, **attributes)
    made.domain = "com.microsoft"
    return made


BACK = of("DequantizeLinear", "r rs rz")
INNER = [of("DequantizeLinear", "r rs rz", "inner"), of("Neg", "inner")]
TAKEN = of("QuantizeLinear", "x s z", "q")
SCALES = {"s": np.float32(0.03), "z": np.uint8(120), "rs": np.float32(0.05), "rz": np.uint8(100)}
KERNEL = {"w": bytes_of(4, 3, 3, 3, low=-60, high=60, dtype=np.int8), "wz": np.int8(3)}
CONV = {**KERNEL, "ws": np.float32(0.01), "b": np.int32([50, -800, 0, 300])}
COLUMNS = {"m": bytes_of(8, 5), "ms": np.float32([0.01, 0.02, 0.01, 0.03, 0.01]), "mz": np.uint8([128] * 5)}
ROWS: dict[str, Row] = {
    "a type of its own": Row([of("DequantizeLinear", "q s z")]),
    "signed": Row([of("QuantizeLinear", "x s c", "i"), of("DequantizeLinear", "i s c")], {"c": np.int8(-7)}),
    "16 bits": Row([of("QuantizeLinear", "x s c", "i"), of("DequantizeLinear", "i s c")], {"c": np.int16(9)}),
    "4 bits": Row(
        [of("QuantizeLinear", "x rs", "i", output_dtype=TensorProto.UINT4), of("DequantizeLinear", "i rs")]
    ),
    "of channels": Row(
        [of("QuantizeLinear", "x many zeros", "i", axis=1), of("DequantizeLinear", "i many zeros", axis=-3)],
        {"many": np.float32([0.02, 0.01, 0.005]), "zeros": np.uint8([120, 0, 255])},
    ),
    "moved": Row(
        [
            of("MaxPool", "q", "pooled", kernel_shape=[2, 2], strides=[1, 1]),
            of("Transpose", "pooled", "turned", perm=[0, 1, 3, 2]),
            of("Concat", "turned pooled", "both", axis=1),
            of("Pad", "both pads ten", "padded"),
            of("Flatten", "padded", "flat"),
            of("DequantizeLinear", "flat s z"),
        ],
        {"pads": np.int64([0, 0, 1, 1, 0, 0, 0, 0]), "ten": np.uint8(10)},
        rank=2,
    ),
    "QLinearConv": Row(
        [of("QLinearConv", "q s z w ws wz rs rz b", "r", pads=[1] * 4, strides=[2, 2]), BACK], CONV
    ),
    "QLinearConv of channels": Row(
        [of("QLinearConv", "q s z w ws wz rs rz", "r"), BACK],
        {**KERNEL, "ws": np.float32([0.01, 0.02, 0.005, 0.01]), "wz": np.int8([0] * 4)},
    ),
    "QLinearMatMul": Row([of("QLinearMatMul", "q s z m ms mz rs rz", "r"), BACK], COLUMNS),
    "ConvInteger": Row(
        [of("ConvInteger", "q w z wz", "sums", pads=[1] * 4), of("Cast", "sums", to=TensorProto.FLOAT)],
        {"w": bytes_of(4, 3, 3, 3), "wz": np.uint8(128)},
    ),
    "MatMulInteger": Row(
        [of("MatMulInteger", "q m z few", "sums"), of("Add", "sums one", "more"), of("Cast", "more", to=1)],
        {"m": bytes_of(8, 5), "few": np.uint8(7), "one": np.int32([1, 2, 3, 4, 5])},
    ),
    "DynamicQuantizeLinear": Row(
        [
            of("DynamicQuantizeLinear", "x", "i is iz"),
            of("ConvInteger", "i w iz wz", "sums"),
            of("Cast", "sums", "real", to=TensorProto.FLOAT),
            of("Mul", "is rs", "scale"),
            of("Mul", "real scale"),
        ],
        {"w": bytes_of(4, 3, 3, 3), "wz": np.uint8(128)},
    ),
    "QLinearAdd": Row([own("QLinearAdd", "q s z q rs z rs rz"), BACK]),
    "QLinearMul": Row([own("QLinearMul", "q s z q rs z rs rz"), BACK]),
    "QLinearConcat": Row([own("QLinearConcat", "rs rz q s z q rs rz", axis=1), BACK]),
    "QLinearAveragePool": Row(
        [own("QLinearAveragePool", "q s z rs rz", kernel_shape=[2, 2], strides=[2, 2]), BACK],
    ),
    "QLinearGlobalAveragePool": Row([own("QLinearGlobalAveragePool", "q s z rs rz", channels_last=0), BACK]),
    "QLinearLeakyRelu": Row([own("QLinearLeakyRelu", "q s z rs rz", alpha=0.1), BACK]),
    "QLinearSigmoid": Row([own("QLinearSigmoid", "q s z rs rz"), *INNER]),
    "QLinearSoftmax": Row([own("QLinearSoftmax", "q s z rs rz", axis=-1, opset=13), *INNER]),
    "QGemm": Row(
        [of("Flatten", "q", "f"), own("QGemm", "f s z g gs gz c", "y", transB=1, alpha=1.0)],
        {
            "g": bytes_of(5, 192),
            "gs": np.float32(0.01),
            "gz": np.uint8(128),
            "c": np.int32([1, 0, -900, 7, 8]),
        },
        rank=2,
    ),
}


def model_of(row: Row) -> onnx.ModelProto:
    graph = helper.make_graph(
        [TAKEN, *row.nodes],
        "quantised",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", *SHAPE[1:]))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * row.rank)],
        [constant(name, value) for name, value in {**SCALES, **row.constants}.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    used = {name for each in model.graph.node for name in each.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


@pytest.mark.parametrize("case", ROWS)
def test_an_operator_on_whole_numbers_computes_what_the_runtime_does(case: str, tmp_path: Path):
    path = tmp_path / "foreign.onnx"
    path.write_bytes(model_of(ROWS[case]).SerializeToString())
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = np.concatenate([session.run(None, {"x": image[None]})[0] for image in IMAGES])
    model = canonicalise.read(path)
    kinds = {each.op_type for each in model.graph.node}
    assert not [kind for kind in kinds if "Quantize" in kind or "QLinear" in kind or "Integer" in kind]
    (found,) = verify.run(model, tmp_path, ["y"], {"x": IMAGES})
    assert found.dtype == np.float32
    step = 0.05 if "QLinear" in case else 0  # A number halfway may be rounded either way.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=step * 1.01 + 1e-5)
    assert (np.abs(found - expected) > 1e-4).mean() < 0.02


def test_gradients_are_those_of_torch_for_fake_quantised_values(tmp_path: Path):
    """torch.fake_quantize_per_tensor_affine: straight through within the range, nothing beyond."""
    pairs = {"a": (0.0237, 70), "b": (0.0513, 0), "c": (0.0117, 128), "d": (0.06, 90)}
    constants = [
        constant(f"{name}.{part}", value)
        for name, (scale, zero) in pairs.items()
        for part, value in {"scale": np.float32(scale), "zero": np.uint8(zero)}.items()
    ]

    def twice(source: str, name: str, value: str) -> list[onnx.NodeProto]:
        numbers = [f"{name}.scale", f"{name}.zero"]
        return [
            node("QuantizeLinear", [source, *numbers], f"{value}.whole"),
            node("DequantizeLinear", [f"{value}.whole", *numbers], value),
        ]

    model = classifier([*twice("relu", "b", "middle")], constants, end="", size=("N", 3, 32, 32))
    nodes = list(model.graph.node)
    nodes[0].input[0] = "seen"
    nodes = [*twice("data", "a", "seen"), *nodes[:-1], *twice("flat", "c", "flat2"), nodes[-1]]
    nodes[-1].input[0] = "flat2"
    nodes[-1].output[0] = nodes[-1].name = "scores"
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *twice("scores", "d", "fc")])
    given = {"mean": (0.4, 0.4, 0.4), "std": (0.25, 0.25, 0.25), "output_kind": "scores"}
    manifest = logits_equal_the_file(
        tmp_path, model, lambda x: (x - np.float32(0.4)) / np.float32(0.25), **given
    )
    assert "gradients go straight through the rounding" in manifest.notes[0]
    assert [layer.name for layer in manifest.layers][:4] == ["seen", "conv", "relu", "middle"]

    weights = {
        tensor.name: torch.tensor(onnx.numpy_helper.to_array(tensor)) for tensor in model.graph.initializer
    }

    def fake(value: torch.Tensor, name: str) -> torch.Tensor:
        return torch.fake_quantize_per_tensor_affine(value, *pairs[name], 0, 255)

    images = verify.noise(2, 32)
    leaf = torch.tensor(images, requires_grad=True)
    value = fake((leaf - 0.4) / 0.25, "a")
    value = torch.relu(torch.conv2d(value, weights["conv.weight"], weights["conv.bias"], 2, 1))
    value = fake(fake(value, "b").mean((2, 3)), "c")
    logits = fake(value @ weights["fc.weight"].T + weights["fc.bias"], "d")
    cotangent = np.random.default_rng(3).normal(size=logits.shape).astype(np.float32)
    (expected,) = torch.autograd.grad(logits, leaf, torch.tensor(cotangent))
    found = gradient_of(tmp_path / "m", images, cotangent)
    assert np.abs(found).max() > 0
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4 * expected.abs().max().item())


class Pictures:
    """What the runtime's own tool calibrates with."""

    def __init__(self) -> None:
        self._images = iter(verify.noise(4, 32))

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._images, None)
        return None if image is None else {"data": image[None]}


def quantised(folder: Path, how: str) -> Path:
    """The float classifier as ONNX Runtime's tool quantises it."""
    from onnxruntime import quantization as tool

    wide = constant("wide", np.random.default_rng(7).normal(0, 0.2, (8, 8, 3, 3)).astype(np.float32))
    middle = [node("Conv", ["relu", "wide"], "deep", pads=[1] * 4), node("Add", ["deep", "relu"], "middle")]
    path, target = (
        save(classifier(middle, [wide], end="", size=("N", 3, 32, 32)), folder),
        folder / f"{how}.onnx",
    )
    if how == "dynamic":
        tool.quantize_dynamic(path, target, weight_type=tool.QuantType.QUInt8)
    else:
        kind = getattr(tool.QuantFormat, how)
        types = dict.fromkeys(("weight_type", "activation_type"), tool.QuantType.QUInt8)
        tool.quantize_static(path, target, Pictures(), quant_format=kind, **types)
    return target


@pytest.mark.parametrize("how", ["QDQ", "QOperator", "dynamic"])
def test_what_the_runtimes_tool_writes_is_served_with_nearly_the_gradients_of_the_float_network(
    how: str, tmp_path: Path
):
    path = quantised(tmp_path, how)
    manifest = logits_equal_the_file(tmp_path, path, tolerance=0.02)
    assert manifest.notes[0].startswith("the file is quantised")
    assert "differ from the file's own run by at most" in manifest.notes[1]
    assert manifest.dynamic_size
    add_onnx(tmp_path / "float", tmp_path / "foreign.onnx", "x", mean=(0, 0, 0), std=(1, 1, 1))
    images, cotangent = verify.noise(2, 32), np.random.default_rng(3).normal(size=(2, 5)).astype(np.float32)
    found, smooth = (gradient_of(tmp_path / part, images, cotangent) for part in ("m", "float"))
    assert np.linalg.norm(found - smooth) < 0.1 * np.linalg.norm(smooth)
    convolution = next(layer for layer in manifest.layers if layer.kind == "Conv")
    assert (convolution.shape, convolution.stride, convolution.receptive_field) == ((8, 16, 16), 2, 3)
    assert convolution.weight


def test_the_rounding_of_probabilities_does_not_hide_their_logits(tmp_path: Path):
    scale, zero = constant("p.scale", np.float32(1 / 255)), constant("p.zero", np.uint8(0))
    model = classifier(size=("N", 3, 32, 32))
    model.graph.initializer.extend([scale, zero])
    model.graph.node[-1].output[0] = model.graph.node[-1].name = "soft"
    model.graph.node.append(node("QuantizeLinear", ["soft", "p.scale", "p.zero"], "whole"))
    model.graph.node.append(node("DequantizeLinear", ["whole", "p.scale", "p.zero"], "end"))
    manifest = logits_equal_the_file(tmp_path, model, tolerance=0.6 / 255 / 0.2, value="probabilities")
    assert manifest.output == "fc"


def test_ranges_are_no_activations_for_the_relu_rules(tmp_path: Path):
    """Guided backprop is that of the ReLUs, which a range that begins at zero behind a convolution is."""
    add_onnx(tmp_path / "m", quantised(tmp_path, "QDQ"), "x", mean=(0, 0, 0), std=(1, 1, 1))
    add_onnx(tmp_path / "float", tmp_path / "foreign.onnx", "x", mean=(0, 0, 0), std=(1, 1, 1))
    images, cotangent = verify.noise(1, 32), np.float32([[1, -1, 1, -1, 1]])
    for rule in autodiff.ReluRule:
        found, smooth = (gradient_of(tmp_path / part, images, cotangent, rule) for part in ("m", "float"))
        assert np.linalg.norm(found - smooth) < 0.1 * np.linalg.norm(smooth), rule


def dynamic_scale() -> Row:
    nodes = [
        of("ReduceMax", "x", "most", keepdims=0),
        of("QuantizeLinear", "x most", "i"),
        of("DequantizeLinear", "i s"),
    ]
    return Row(nodes)


def float8() -> Row:
    made = of("QuantizeLinear", "x s", "i", output_dtype=TensorProto.FLOAT8E4M3FN)
    return Row([made, of("DequantizeLinear", "i s")])


REFUSED: dict[str, tuple[Callable[[], Row], str]] = {
    "scale": (dynamic_scale, "QuantizeLinear node 'node of i': its input 'most' is not constant"),
    "float8": (float8, "QuantizeLinear node 'node of i': FLOAT8E4M3FN has no form in float32"),
    "arithmetic": (
        lambda: Row(
            [of("BitShift", "q two", "t", direction="LEFT"), of("DequantizeLinear", "t s z")],
            {"two": np.uint8(2)},
        ),
        "BitShift node 'node of t': it computes with whole numbers that follow from the image",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_form_in_float32_is_refused_by_name(case: str, tmp_path: Path):
    make, message = REFUSED[case]
    path = tmp_path / "foreign.onnx"
    path.write_bytes(model_of(make()).SerializeToString())
    with pytest.raises(InvalidArgument, match=message):
        canonicalise.read(path)


def test_scores_of_whole_numbers_are_refused(tmp_path: Path):
    model = model_of(Row([]))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("q", TensorProto.UINT8, [None] * 4))
    (tmp_path / "foreign.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InvalidArgument, match=r"model.outputs.q = 'UINT8': must be floats"):
        canonicalise.read(tmp_path / "foreign.onnx")
