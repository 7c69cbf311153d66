"""Imports are proven against the file: what is another network, or has another gradient, is not published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import typer
from onnx import helper, numpy_helper
from support.foreign_onnx import CLASSES, classifier, constant, node, output, save, weight
from typer.testing import CliRunner

from convlens.errors import InvalidArgument
from convlens_models.cli import add as add_command
from convlens_models.graphs import surgery
from convlens_models.importing import canonicalise, verify
from convlens_models.importing.exact import Exact
from convlens_models.importing.names import by_modules
from convlens_models.importing.onnx_import import add_onnx
from convlens_models.importing.pictures import pictures
from convlens_models.manifest import INPUT, PROBABILITIES, Manifest
from convlens_models.repository import ModelRepository
from convlens_models.vjp import OPERATORS

BYTES = {"input_range": "0..255", "std": (255.0, 255.0, 255.0)}


def add(folder: Path, model: onnx.ModelProto) -> Manifest:
    return add_onnx(folder / "m", save(model, folder), "x", **BYTES)


def served(folder: Path, images: np.ndarray, value: str = PROBABILITIES) -> np.ndarray:
    stored = ModelRepository(folder / "m").get("x")
    part = surgery.cut(stored.forward(), [value])
    return verify.run(part, stored.path, [value], {INPUT: images})[0]


def by_itself(folder: Path, images: np.ndarray) -> np.ndarray:
    """ONNX Runtime's run of the file, an image at a time."""
    session = onnxruntime.InferenceSession(folder / "foreign.onnx")
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: image[None]})[0] for image in images])


def standardised(batch: int | str) -> onnx.ModelProto:
    """Weights that are standardised at each run, by a Reshape to (1, ...) that no batch goes through."""
    nodes = [
        node("Reshape", ["kernel", "rows"], "flat kernel"),
        node("ReduceMean", ["flat kernel"], "mean", axes=[2], keepdims=1),
        node("Sub", ["flat kernel", "mean"], "centred"),
        node("Reshape", ["centred", "back"], "standard"),
        node("Conv", ["relu", "standard"], "middle", pads=[1] * 4),
    ]
    constants = [
        weight("kernel", 8, 8, 3, 3),
        constant("rows", np.int64([1, 8, -1])),
        constant("back", np.int64([8, 8, 3, 3])),
    ]
    return classifier(nodes, constants, size=(batch, 3, 32, 32))


def group_norm(batch: int | str) -> onnx.ModelProto:
    """A group norm by hand whose Reshape lays images and groups into one axis."""
    nodes = [
        node("Reshape", ["relu", "groups"], "rows"),
        node("ReduceMean", ["rows"], "mean", axes=[2], keepdims=1),
        node("Sub", ["rows", "mean"], "centred"),
        node("Reshape", ["centred", "back"], "middle"),
    ]
    constants = [constant("groups", np.int64([1, -1, 512])), constant("back", np.int64([-1, 8, 16, 16]))]
    return classifier(nodes, constants, size=(batch, 3, 32, 32))


def moving_statistics() -> onnx.ModelProto:
    """A group norm by a batch norm whose mean and variance are those of the image."""
    model = group_norm("N")
    at = next(i for i, each in enumerate(model.graph.node) if each.output[0] == "centred")
    fresh = [
        node("ReduceMean", ["rows"], "means", axes=[0, 2], keepdims=0),
        node("Sub", ["rows", "mean"], "apart"),
        node("Mul", ["apart", "apart"], "squares"),
        node("ReduceMean", ["squares"], "variances", axes=[0, 2], keepdims=0),
        node("Shape", ["rows"], "count", start=1, end=2),
        node("Expand", ["one", "count"], "ones"),
        node("Expand", ["half", "count"], "halves"),
        node("BatchNormalization", ["rows", "ones", "halves", "means", "variances"], "centred"),
    ]
    del model.graph.node[at]
    for position, each in enumerate(fresh):
        model.graph.node.insert(at + position, each)
    for name, value in (("one", 1.5), ("half", 0.5)):
        model.graph.initializer.append(constant(name, np.float32([value])))
    return model


def attention(batch: int | str) -> onnx.ModelProto:
    """Positions as tokens, a token for the class before them, heads in an axis of their own."""
    one = batch if isinstance(batch, int) else 0
    nodes = [
        node("Reshape", ["relu", "tokens"], "rows"),
        node("Transpose", ["rows"], "turned", perm=[0, 2, 1]),
        node("Concat", ["token", "turned"], "all", axis=1),
        node("Reshape", ["all", "heads"], "split"),
        node("Transpose", ["split"], "by head", perm=[0, 2, 1, 3]),
        node("ReduceMean", ["by head"], "mean", axes=[2], keepdims=0),
        node("Reshape", ["mean", "map"], "middle"),
    ]
    sizes = {"tokens": [one, 8, 256], "heads": [one, 257, 2, 4], "map": [one, 8, 1, 1]}
    constants = [constant(name, np.int64(at)) for name, at in sizes.items()]
    return classifier(nodes, [*constants, weight("token", 1, 1, 8)], size=(batch, 3, 32, 32))


def constant_pads() -> onnx.ModelProto:
    """Pads that are worked out of constants, as the older exporter writes them."""
    nodes = [
        node("ConstantOfShape", ["four"], "zeros", value=helper.make_tensor("v", 7, [1], [0])),
        node("Concat", ["zeros", "ends"], "uneven", axis=0),
        node("Reshape", ["uneven", "pairs"], "paired"),
        node("Transpose", ["paired"], "ordered", perm=[1, 0]),
        node("Reshape", ["ordered", "flat shape"], "pads"),
        node("Pad", ["relu", "pads"], "padded"),
        node("Conv", ["padded", "kernel"], "middle", strides=[2, 2]),
    ]
    sizes = {"four": [4], "ends": [0, 1, 0, 1], "pairs": [4, 2], "flat shape": [-1]}
    constants = [constant(name, np.int64(at)) for name, at in sizes.items()]
    return classifier(nodes, [*constants, weight("kernel", 8, 8, 3, 3)])


def token_of_one(batch: int | str) -> onnx.ModelProto:
    model = attention(batch)
    token = next(tensor for tensor in model.graph.initializer if tensor.name == "token")
    if isinstance(batch, str):
        model.graph.initializer.remove(token)
        row = numpy_helper.to_array(token)
        model.graph.initializer.append(constant("row", row))
        model.graph.initializer.append(constant("1 1", np.int64([1, 1])))
        fresh = [
            helper.make_node("Shape", ["data"], ["n"], start=0, end=1),
            helper.make_node("Concat", ["n", "1 1"], ["each"], axis=0),
            helper.make_node("Expand", ["row", "each"], ["token"]),
        ]
        for position, each in enumerate(fresh):
            model.graph.node.insert(position, each)
    return model


FILES: dict[str, Callable[[], onnx.ModelProto]] = {
    "standardised weights, batch 1": lambda: standardised(1),
    "standardised weights, any batch": lambda: standardised("N"),
    "a group norm, any batch": lambda: group_norm("N"),
    "a batch norm by the image's statistics": moving_statistics,
    "tokens, batch 1": lambda: token_of_one(1),
    "tokens, any batch": lambda: token_of_one("N"),
    "constant pads": constant_pads,
}


@pytest.mark.parametrize("case", FILES)
def test_what_is_served_is_what_the_file_computes(case: str, tmp_path: Path):
    manifest = add(tmp_path, FILES[case]())
    images = pictures(32, 32, 3)
    np.testing.assert_allclose(served(tmp_path, images), by_itself(tmp_path, images), rtol=1e-5, atol=1e-6)
    assert manifest.proof is not None
    assert manifest.proof.scores < 1e-5
    assert manifest.proof.slopes is not None
    assert manifest.proof.slopes < 1e-3
    names = [layer.name for layer in manifest.layers]
    assert {"conv", "relu", "middle", "fc"} <= set(names)


def test_constants_are_folded_and_multiply_adds_are_those_of_the_convolutions(tmp_path: Path):
    manifest = add(tmp_path, constant_pads())
    assert manifest.multiply_adds == 16**2 * 8 * 27 + 8**2 * 8 * 72 + CLASSES * 8
    assert manifest.layer("middle").shape == (8, 8, 8)


def same_pads(size: int) -> onnx.ModelProto:
    """Pads of SAME padding, worked out for `size`, before strides of 2."""
    begin, end = (1, 1) if size % 2 else (0, 1)
    pads = [begin, begin, end, end]
    pool = node("MaxPool", ["relu"], "middle", kernel_shape=[3, 3], strides=[2, 2], pads=pads)
    model = classifier([pool], size=("N", 3, size, size))
    next(each for each in model.graph.node[0].attribute if each.name == "pads").ints[:] = pads
    return model


def flattened_into_the_batch() -> onnx.ModelProto:
    """Scores for each position of the last map: one at the declared size, four at twice that."""
    nodes = [
        node("AveragePool", ["relu"], "small", kernel_shape=[16, 16], strides=[16, 16]),
        node("Reshape", ["small", "rows"], "flat2"),
        node("Reshape", ["flat2", "map"], "middle"),
    ]
    sizes = {"rows": [-1, 8], "map": [-1, 8, 1, 1]}
    return classifier(nodes, [constant(name, np.int64(at)) for name, at in sizes.items()])


SIZES = {
    "own pads": (classifier, True, 1),
    "pads of SAME, an even size": (lambda: same_pads(32), True, 4),
    "pads of SAME, an odd size": (lambda: same_pads(33), True, 4),
    "space in the batch": (flattened_into_the_batch, False, 1),
    "any size": (lambda: classifier(size=("N", 3, "H", "W")), True, 1),
}


@pytest.mark.parametrize("case", SIZES)
def test_sizes_are_opened_as_far_as_they_are_proven(case: str, tmp_path: Path):
    make, dynamic, multiple = SIZES[case]
    manifest = add(tmp_path, make())
    assert (manifest.dynamic_size, manifest.size_multiple) == (dynamic, multiple)
    assert manifest.proof is not None
    assert all(manifest.takes(*size) for size in manifest.proof.sizes)
    assert not manifest.takes(manifest.input_size + 1, manifest.input_size) or multiple == 1


def another_kernel(model: onnx.ModelProto) -> None:
    kernel = next(tensor for tensor in model.graph.initializer if tensor.name == "conv.weight")
    kernel.CopyFrom(weight("conv.weight", 8, 3, 3, 3, seed=1))


def test_another_network_is_refused_with_the_node_where_it_begins(tmp_path: Path, monkeypatch):
    read = canonicalise.read

    def altered(path: Path, *how: object) -> onnx.ModelProto:
        model = read(path, *how)
        another_kernel(model)
        return model

    monkeypatch.setattr(canonicalise, "read", altered)
    with pytest.raises(InvalidArgument, match="from the file's own, first at Conv node 'node of conv'"):
        add(tmp_path, classifier())


def test_another_gradient_is_refused(tmp_path: Path, monkeypatch):
    row = OPERATORS["MaxPool"]

    def twice(t, n, cotangents):
        return [t.mul(value, 1.02) for value in row.gradient(t, n, cotangents)]

    monkeypatch.setitem(OPERATORS, "MaxPool", row._replace(gradient=twice))
    with pytest.raises(InvalidArgument, match=r"the gradient of its scores is off by 0\.0"):
        add(tmp_path, classifier())


WINDOWS = {
    "Conv": {"pads": [1, 0, 2, 1], "strides": [2, 1], "dilations": [1, 2], "group": 2},
    "MaxPool": {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "strides": [2, 2], "ceil_mode": 1},
    "AveragePool": {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "strides": [2, 2], "count_include_pad": 1},
}


@pytest.mark.parametrize("auto_pad", ["", "SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("kind", WINDOWS)
def test_the_oracle_has_the_windows_of_onnx_runtime(kind: str, auto_pad: str, tmp_path: Path):
    options = dict(WINDOWS[kind])
    if auto_pad:
        del options["pads"]
        options["auto_pad"] = auto_pad
        options["dilations"] = [1, 1]
    if kind == "MaxPool" or (kind == "AveragePool" and not auto_pad):
        options.pop("dilations", None)
    inputs = ["x", "w"] if kind == "Conv" else ["x"]
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, ["y"], **options)],
        "one",
        [helper.make_tensor_value_info("x", 1, (1, 4, 11, 10))],
        [output("y", 4)],
        [weight("w", 6, 2, 3, 2)] if kind == "Conv" else [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    x = np.random.default_rng(0).standard_normal((1, 4, 11, 10)).astype(np.float32)
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    found = Exact(onnx.load(save(model, tmp_path)), None).value(x.astype(np.float64))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_summary_tells_what_was_proven_and_why(tmp_path: Path):
    app = typer.Typer()
    app.command("add")(add_command)
    path = save(classifier(), tmp_path)
    options = ["--onnx", str(path), "--name", "x", "--models", str(tmp_path / "m"), "--explain"]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith("added x/1: onnx for onnx, 5 classes, 8 layers, ")
    assert lines[1].startswith("  layers: ")
    assert "1 Conv" in lines[1]
    assert "in batches of 1, 2, 3, 8, at 32 x 32, 3 x 3, " in lines[2]
    assert lines[3].endswith("of its length from the slopes of the file in float64")
    assert lines[-1] == "  sizes: steps of 1 px from 3, for its operators have no size"


def scoped(kind: str, source: str, value: str, *scopes: str) -> onnx.NodeProto:
    made = node(kind, [source], value)
    made.name = f"node_{value}"
    entry = made.metadata_props.add()
    entry.key, entry.value = "pkg.torch.onnx.name_scopes", str(["", *scopes])
    return made


def slashed(kind: str, source: str, value: str, name: str) -> onnx.NodeProto:
    made = node(kind, [source], value)
    made.name = name
    return made


NEWER = [
    scoped("Relu", "x", "relu", "layer4", "layer4.1", "layer4.1.relu", "relu"),
    scoped("Sigmoid", "relu", "s", "layer4", "layer4.1", "layer4.1.act", "sigmoid"),
    scoped("Neg", "s", "getitem_102", "layer4", "layer4.1", "layer4.1.act", "neg_3"),
    scoped("Abs", "getitem_102", "abs_1", "layer4", "layer4.1", "abs_1"),
    scoped("Relu", "abs_1", "relu_1", "layer4", "layer4.1", "layer4.1.relu", "relu_1"),
    scoped("Flatten", "relu_1", "view", "view"),
]
OLDER = [
    slashed("Relu", "x", "/features/features.0/Relu_output_0", "/features/features.0/Relu"),
    slashed("Relu", "f", "g", "/stage2/stage2.0/branch1/branch1.4/Relu"),
    slashed("Add", "g", "h", "/stage2/stage2.0/Add_1"),
    slashed("Flatten", "h", "y", "/Flatten"),
]


def test_values_are_called_as_the_modules_that_make_them():
    graph = helper.make_graph(NEWER, "newer", [output("x", 4)], [output("view", 2)])
    assert list(by_modules(graph).values()) == [
        "layer4.1.relu", "layer4.1.act.sigmoid", "layer4.1.act", "layer4.1.abs", "layer4.1.relu_1", "view",
    ]  # fmt: skip
    graph = helper.make_graph(OLDER, "older", [output("x", 4)], [output("y", 2)])
    assert list(by_modules(graph).values()) == [
        "features.0", "stage2.0.branch1.4", "stage2.0.add", "flatten",
    ]  # fmt: skip
    assert by_modules(classifier().graph) == {}


def test_a_file_with_modules_has_their_names_and_its_own_scores(tmp_path: Path):
    model = classifier()
    for each in model.graph.node:
        each.name = f"/net/net.{each.output[0]}/{each.op_type}"
    manifest = add(tmp_path, model)
    names = [layer.name for layer in manifest.layers]
    assert names[:3] == ["net.conv", "net.relu", "net.middle"]
    assert manifest.output == "net.fc"
    images = pictures(32, 32, 2)
    np.testing.assert_allclose(served(tmp_path, images), by_itself(tmp_path, images), rtol=1e-5, atol=1e-6)
