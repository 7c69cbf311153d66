"""`add_onnx`: classifiers from elsewhere become models like our own, or are refused with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from support.foreign_onnx import CLASSES, classifier, constant, node, output, save, weight

from convlens.errors import FailedPrecondition, InvalidArgument
from convlens_models.graphs import autodiff, surgery
from convlens_models.importing import canonicalise, verify
from convlens_models.importing.onnx_import import add_onnx
from convlens_models.manifest import INPUT
from convlens_models.repository import FORWARD, ModelRepository


def run_file(path: Path, images: np.ndarray) -> np.ndarray:
    """What the file itself computes of its own kind of input, one image at a time."""
    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: image[None]})[0] for image in images])


def run_model(root: Path, layers: list[str], images: np.ndarray) -> list[np.ndarray]:
    stored = ModelRepository(root).get("x")
    return verify.run(surgery.cut(stored.forward(), layers), stored.path, layers, {INPUT: images})


def add(folder: Path, model: onnx.ModelProto, **options):
    return add_onnx(folder / "m", save(model, folder), "x", **options)


def column(*values: float) -> np.ndarray:
    return np.float32(values).reshape(3, 1, 1)


NORMALISATIONS = {
    "imagenet": ({}, lambda x: (x - column(0.485, 0.456, 0.406)) / column(0.229, 0.224, 0.225)),
    "own": (
        {"mean": (0.1, 0.2, 0.3), "std": (1, 2, 3)},
        lambda x: (x - column(0.1, 0.2, 0.3)) / column(1, 2, 3),
    ),
    "bytes": ({"input_range": "0..255"}, lambda x: x * 255),
    "caffe": (
        {"input_range": "0..255", "mean": (123.68, 116.78, 103.94), "bgr": True},
        lambda x: (x * 255 - column(123.68, 116.78, 103.94))[:, ::-1],
    ),
}


@pytest.mark.parametrize("case", NORMALISATIONS)
def test_probabilities_are_those_of_the_file_behind_its_normalisation(case: str, tmp_path: Path):
    options, normalise = NORMALISATIONS[case]
    manifest = add(tmp_path, classifier(), **options)
    images = verify.noise(3, 32)
    expected = run_file(tmp_path / "foreign.onnx", np.ascontiguousarray(normalise(images)))
    actual, logs = run_model(tmp_path / "m", ["probabilities", "log_probabilities"], images)
    np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(np.exp(logs), actual, rtol=1e-4, atol=1e-6)
    assert (manifest.architecture, manifest.output, manifest.input_size) == ("onnx", "fc", 32)
    assert manifest.labels == tuple(f"class {index}" for index in range(CLASSES))


def test_layers_sizes_and_weights_are_found(tmp_path: Path):
    manifest = add(tmp_path, classifier())
    rows = {layer.name: layer for layer in manifest.layers}
    assert list(rows) == [
        "conv",
        "relu",
        "middle",
        "pool",
        "flat",
        "fc",
        "probabilities",
        "log_probabilities",
    ]
    assert [rows[name].kind for name in rows][:6] == [
        "Conv", "Relu", "MaxPool", "GlobalAveragePool", "Flatten", "Linear",
    ]  # fmt: skip
    assert (rows["conv"].shape, rows["conv"].stride, rows["conv"].receptive_field) == ((8, 16, 16), 2, 3)
    assert (rows["middle"].stride, rows["middle"].receptive_field) == (4, 5)
    assert (rows["conv"].weight, rows["fc"].weight, rows["relu"].weight) == ("conv.weight", "fc.weight", None)
    assert manifest.parameters == 8 * 27 + CLASSES * 8  # The biases are small and stay in the graph.
    assert manifest.multiply_adds == 16 * 16 * 8 * 27 + CLASSES * 8
    assert (manifest.dynamic_size, manifest.min_size) == (True, 3)
    assert manifest.dream_layers == ("relu",)


def linear_on_maps(**options: int) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    nodes = [
        node("Reshape", ["relu", "shape"], "rows", **options),
        node("MatMul", ["rows", "mix"], "mixed"),
        node("Reshape", ["mixed", "back"], "middle"),
    ]
    shape, back = constant("shape", np.int64([1, 8 * 256])), constant("back", np.int64([1, 8, 1, 1]))
    return nodes, [shape, back, weight("mix", 8 * 256, 8)]


@pytest.mark.parametrize("options", [{}, {"allowzero": 0}, {"allowzero": 1}])
def test_a_batch_of_one_is_freed_and_a_bound_size_is_kept(options: dict[str, int], tmp_path: Path):
    manifest = add(tmp_path, classifier(*linear_on_maps(**options)), input_range="0..255")
    assert (manifest.dynamic_size, manifest.input_size, manifest.min_size) == (False, 32, 32)
    images = verify.noise(3, 32)
    (actual,) = run_model(tmp_path / "m", ["probabilities"], images)
    np.testing.assert_allclose(
        actual, run_file(tmp_path / "foreign.onnx", images * 255), rtol=1e-4, atol=1e-6
    )
    declared = ModelRepository(tmp_path / "m").get("x").forward().graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in declared] == ["N", 3, 32, 32]


BEFORE_THE_HEAD = [
    node("Conv", ["relu", "wide"], "deep", pads=[2] * 4, strides=[2, 2]),
    node("Relu", ["deep"], "last"),
]


def with_linear_head(
    middle: list[onnx.NodeProto], last: str, *constants: onnx.TensorProto, numbers: int = 8 * 8**2
) -> onnx.ModelProto:
    """A classifier whose head takes the value `last` of so many numbers, and no more."""
    nodes = [
        *middle,
        node("Flatten", [last], "rows"),
        node("MatMul", ["rows", "mix"], "mixed"),
        node("Reshape", ["mixed", "back"], "middle"),
    ]
    more = [weight("wide", 8, 8, 5, 5), weight("mix", numbers, 8), constant("back", np.int64([0, 8, 1, 1]))]
    return classifier(nodes, [*more, *constants])


def slicing() -> onnx.ModelProto:
    """A map is cut to a size that is a constant of the graph."""
    nodes = [
        node("Slice", ["relu", "from", "to", "axes"], "cut"),
        node("Conv", ["cut", "wide"], "deep", pads=[2] * 4),
        node("Flatten", ["relu"], "many"),
        node("Flatten", ["deep"], "few"),
        node("Concat", ["many", "few"], "last", axis=1),
    ]
    bounds = {"from": [0, 0], "to": [8, 8], "axes": [2, 3]}
    constants = [constant(name, np.int64(at)) for name, at in bounds.items()]
    return with_linear_head(nodes, "last", *constants, numbers=8 * (16**2 + 8**2))


def positions() -> onnx.ModelProto:
    """Each position has a constant of its own."""
    own = constant("positions", np.random.default_rng(0).random((1, 8, 16, 16)).astype(np.float32))
    return with_linear_head([node("Add", ["relu", "positions"], "last")], "last", own, numbers=8 * 16**2)


def padding() -> onnx.ModelProto:
    """Pads depend on the size: gradients of open sizes have no rule for that."""
    return with_linear_head(
        [node("Conv", ["relu", "wide"], "last", auto_pad="SAME_UPPER", strides=[2, 2])], "last"
    )


TRUNKS = {
    "convolutions": (lambda: with_linear_head(BEFORE_THE_HEAD, "last"), ["conv", "relu", "deep", "last"]),
    "a constant cut": (slicing, ["conv", "relu"]),
    "a constant of each position": (positions, ["conv", "relu"]),
    "pads that depend on the size": (padding, []),
}


@pytest.mark.parametrize("case", TRUNKS)
def test_layers_before_a_head_of_one_size_are_open_where_that_is_proven(case: str, tmp_path: Path):
    make, taking = TRUNKS[case]
    manifest = add(tmp_path, make())
    assert (manifest.dynamic_size, manifest.min_size) == (False, 32)
    assert [layer.name for layer in manifest.layers if layer.any_size] == taking
    stored = ModelRepository(tmp_path / "m").get("x")
    assert stored.manifest == manifest
    head = "where its head is read" if taking else "none of its layers is known to take others"
    assert head in manifest.why_one_size
    for name in taking:
        least = manifest.least_side(manifest.layer(name))
        part = surgery.cut(surgery.opened(stored.forward()), [name])
        (value,) = verify.run(part, stored.path, [name], {INPUT: verify.noise(1, least)})
        assert min(value.shape) >= 1


def test_a_graph_that_computes_something_else_than_its_file_is_not_open(tmp_path: Path, monkeypatch):
    read, times = canonicalise.read, list[Path]()

    def another(path: Path) -> onnx.ModelProto:
        model = read(path)
        times.append(path)
        if len(times) > 1:
            kernel = next(tensor for tensor in model.graph.initializer if tensor.name == "conv.weight")
            kernel.CopyFrom(weight("conv.weight", 8, 3, 3, 3, seed=1))
        return model

    monkeypatch.setattr(canonicalise, "read", another)
    manifest = add(tmp_path, with_linear_head(BEFORE_THE_HEAD, "last"))
    assert len(times) == 2
    assert not any(layer.any_size for layer in manifest.layers)


ENDS = {"Softmax": "fc", "LogSoftmax": "fc", "Identity": "fc", "": "fc", "Sigmoid": "end"}


@pytest.mark.parametrize("end", ENDS)
def test_the_logits_are_what_goes_into_a_softmax(end: str, tmp_path: Path):
    assert add(tmp_path, classifier(end=end)).output == ENDS[end]


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
def test_opsets_from_old_to_new(opset: int, tmp_path: Path):
    manifest = add(tmp_path, classifier(opset=opset), input_range="0..255")
    images = verify.noise(2, 32)
    (actual,) = run_model(tmp_path / "m", ["probabilities"], images)
    np.testing.assert_allclose(
        actual, run_file(tmp_path / "foreign.onnx", images * 255), rtol=1e-4, atol=1e-6
    )
    assert manifest.output == "fc"


def test_weights_in_constant_nodes_and_external_files_are_stored_too(tmp_path: Path):
    model = classifier()
    moved = next(tensor for tensor in model.graph.initializer if tensor.name == "conv.weight")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["conv.weight"], value=moved))
    model.graph.initializer.remove(moved)
    path = tmp_path / "foreign.onnx"
    onnx.save(model, path, save_as_external_data=True, location="data.bin", size_threshold=0)
    manifest = add_onnx(tmp_path / "m", path, "x")
    assert set(ModelRepository(tmp_path / "m").get("x").weights()) == {"conv.weight", "fc.weight"}
    assert next(layer for layer in manifest.layers if layer.name == "conv").weight == "conv.weight"


def test_names_that_we_use_ourselves_do_not_clash(tmp_path: Path):
    rename = {"relu": "image", "pool": "probabilities", "flat": "cotangent"}
    model = classifier(source="image_gradient")
    for part in model.graph.node:
        for field in (part.input, part.output):
            field[:] = [rename.get(value, value) for value in field]
    add(tmp_path, model)
    images = verify.noise(2, 32)
    names = ["probabilities.inner", "image.inner", "cotangent.inner", "probabilities"]
    pooled, relu, _, actual = run_model(tmp_path / "m", names, images)
    np.testing.assert_allclose(actual.sum(1), 1, rtol=1e-5)
    assert pooled.shape == (2, 8, 1, 1)
    assert relu.shape == (2, 8, 16, 16)


def test_scores_as_maps_of_one_position_are_flattened(tmp_path: Path):
    model = classifier(end="")
    nodes = [part for part in model.graph.node if part.output[0] not in ("flat", "fc")]
    nodes.append(node("Conv", ["pool", "last"], "scores"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(weight("last", CLASSES, 8, 1, 1))
    model.graph.output[0].CopyFrom(output("scores", 4))
    manifest = add(tmp_path, model)
    assert manifest.output == "scores.flat"
    assert manifest.layer("scores.flat").shape == (CLASSES,)
    assert manifest.layer("scores").shape == (CLASSES, 1, 1)


def test_same_padding_and_implicit_kernels(tmp_path: Path):
    middle = [node("Conv", ["relu", "w"], "middle", auto_pad="SAME_UPPER", strides=[2, 2], dilations=[1, 1])]
    manifest = add(tmp_path, classifier(middle, [weight("w", 8, 8, 5, 5)]))
    layer = manifest.layer("middle")
    assert (layer.shape, layer.stride, layer.receptive_field) == ((8, 8, 8), 4, 3 + 4 * 2)
    assert layer.receptive_field_start == 0 + (2 - 1) * 2


def test_local_functions_are_inlined(tmp_path: Path):
    model = classifier([node("Twice", ["relu"], "middle")])
    model.graph.node[2].domain = "own"
    body = [helper.make_node("Add", ["a", "a"], ["b"], name="add")]
    opsets = list(model.opset_import)
    model.functions.append(helper.make_function("own", "Twice", ["a"], ["b"], body, opsets))
    model.opset_import.append(helper.make_opsetid("own", 1))
    kinds = {layer.kind for layer in add(tmp_path, model).layers}
    assert "Add" in kinds
    assert "Twice" not in kinds


def two_inputs() -> onnx.ModelProto:
    model = classifier([node("Add", ["relu", "more"], "middle")])
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, (1, 8, 1, 1)))
    return model


def two_outputs() -> onnx.ModelProto:
    model = classifier()
    model.graph.output.append(output("relu", 4))
    return model


def mixing_the_batch() -> onnx.ModelProto:
    nodes = [
        node("ReduceMean", ["relu"], "mean", axes=[0], keepdims=1),
        node("Sub", ["relu", "mean"], "middle"),
    ]
    return classifier(nodes, size=("N", 3, 32, 32))


def infinite() -> onnx.ModelProto:
    model = classifier()
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "fc.bias")
    bias.CopyFrom(constant("fc.bias", np.full(CLASSES, np.inf, np.float32)))
    return model


def segmenter() -> onnx.ModelProto:
    model = classifier(end="")
    del model.graph.node[3:]
    model.graph.output[0].CopyFrom(output("middle", 4))
    return model


def custom() -> onnx.ModelProto:
    model = classifier([node("Special", ["relu"], "middle")])
    model.graph.node[2].domain = "own"
    model.opset_import.append(helper.make_opsetid("own", 1))
    return model


REFUSED = {
    "operator": (
        lambda: classifier([node("Hardmax", ["relu"], "middle")]),
        "no rule for Hardmax \\(node of middle\\)",
    ),
    "custom operator": (custom, "Special"),
    "new opset": (lambda: classifier(opset=99), "opset|valid ONNX"),
    "two inputs": (two_inputs, r"model.inputs = \['data', 'more'\]: must be one"),
    "two outputs": (two_outputs, r"model.outputs = \['end', 'relu'\]: must be one"),
    "channels last": (
        lambda: classifier(size=(1, 32, 32, 3)),
        r"FLOAT \[1, 32, 32, 3\]'?: must be FLOAT \(N, 3",
    ),
    "double": (lambda: classifier(dtype=TensorProto.DOUBLE), "DOUBLE|valid ONNX"),
    "not square": (lambda: classifier(size=(1, 3, 32, 48)), "32 x 48 pixels.*: must be square"),
    "maps": (segmenter, r"middle of shape \['N', 8, 8, 8\].*scores of shape \(N, classes\)"),
    "mixing": (mixing_the_batch, "images of one batch change each other's scores"),
    "infinite": (infinite, "is not finite on a random image"),
    "unknown value": (lambda: classifier([node("Add", ["relu", "nothing"], "middle")]), "valid ONNX"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_classifier_of_ours_is_refused_with_the_reason(case: str, tmp_path: Path):
    make, message = REFUSED[case]
    with pytest.raises(InvalidArgument, match=message):
        add(tmp_path, make())
    assert not list((tmp_path / "m").glob("*")) if (tmp_path / "m").exists() else True


ARGUMENTS = {
    "name": ({"name": "No"}, "name = 'No'"),
    "size": ({"input_size": 64}, "input_size = 64: must be 32, which the graph declares"),
    "file": ({"file": Path("absent.onnx")}, "file = 'absent.onnx': must be a valid ONNX model"),
    "deviation": ({"std": (0, 1, 1)}, "std = "),
    "labels": ({"labels": Path(__file__)}, "labels = .*network's 5 classes"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments_that_are_refused(case: str, tmp_path: Path):
    options, message = ARGUMENTS[case]
    given = {"root": tmp_path / "m", "file": save(classifier(), tmp_path), "name": "x", **options}
    with pytest.raises(InvalidArgument, match=message):
        add_onnx(**given)


def test_external_data_outside_the_folder_of_the_file_is_refused(tmp_path: Path):
    (tmp_path / "inside").mkdir()
    path = tmp_path / "inside" / "foreign.onnx"
    onnx.save(classifier(), path, save_as_external_data=True, location="data.bin", size_threshold=0)
    (tmp_path / "inside" / "data.bin").rename(tmp_path / "data.bin")
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for item in tensor.external_data:
            item.value = "../data.bin" if item.key == "location" else item.value
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InvalidArgument, match="valid ONNX"):
        add_onnx(tmp_path / "m", path, "x")


def test_the_stored_graph_differentiates_by_every_rule(tmp_path: Path):
    add(tmp_path, classifier())
    stored = ModelRepository(tmp_path / "m").get("x")
    onnx.checker.check_model(str(stored.file(FORWARD)))
    images = verify.noise(2, 40)
    for rule in autodiff.ReluRule:
        part = autodiff.differentiate(stored.forward(), "relu", rule)
        feeds = {INPUT: images, autodiff.COTANGENT: np.ones((2, 8, 20, 20), np.float32)}
        value, gradient = verify.run(part, stored.path, ["relu", autodiff.IMAGE_GRADIENT], feeds)
        assert gradient.shape == images.shape
        assert np.abs(gradient).sum() > 0
        assert (value >= 0).all()


MIDDLES = {
    "grouped": [
        node("GroupNormalization", ["relu", "scale", "shift"], "group", num_groups=2),
        node("Gelu", ["group"], "middle"),
    ],
    "attended": [  # One channel's weight of its neighbours' means, along one axis.
        node("ReduceMean", ["relu", "positions"], "mean", keepdims=0),
        node("Unsqueeze", ["mean", "one"], "row"),
        node("Conv", ["row", "along"], "gate", pads=[1, 1]),
        node("Sigmoid", ["gate"], "sigmoid"),
        node("Reshape", ["sigmoid", "lifted"], "weights"),
        node("Mul", ["relu", "weights"], "middle"),
    ],
    "resized": [
        node("Resize", ["relu", "", "twice"], "wide", mode="linear"),
        node("Pad", ["wide", "border"], "mirrored", mode="reflect"),
        node("ReduceL2", ["mirrored", "one"], "norm"),
        node("Div", ["mirrored", "norm"], "middle"),
    ],
}
CONSTANTS = {
    "scale": np.linspace(1, 2, 8, dtype=np.float32),
    "shift": np.linspace(1, 0, 8, dtype=np.float32),
    "positions": [2, 3],
    "one": [1],
    "along": np.ones((1, 1, 3), np.float32),
    "lifted": [0, -1, 1, 1],
    "twice": np.array([1, 1, 2, 2], np.float32),
    "border": [0, 0, 1, 1, 0, 0, 1, 1],
}


@pytest.mark.parametrize("case", MIDDLES)
def test_operators_of_other_networks_come_in_with_their_scores(case: str, tmp_path: Path):
    constants = [constant(name, value) for name, value in CONSTANTS.items()]
    add(tmp_path, classifier(MIDDLES[case], constants, opset=21), mean=(0, 0, 0), std=(1, 1, 1))
    images = verify.noise(3, 32)
    (found,) = run_model(tmp_path / "m", ["probabilities"], images)
    np.testing.assert_allclose(found, run_file(tmp_path / "foreign.onnx", images), atol=1e-5)


def test_a_network_without_rectifier_comes_in_and_has_its_gradient_alone(tmp_path: Path):
    model = classifier()
    model.graph.node[1].op_type = "Tanh"
    manifest = add(tmp_path, model)
    graph = ModelRepository(tmp_path / "m").get("x").forward()
    autodiff.differentiate(graph, manifest.output)
    with pytest.raises(FailedPrecondition, match=r"guided_backprop .* 1 Tanh; ask for its gradient"):
        autodiff.differentiate(graph, manifest.output, autodiff.ReluRule.GUIDED)
