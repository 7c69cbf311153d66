"""What an output means: scores are taken where they are proven, and probabilities are those of the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from support.foreign_onnx import CLASSES, classifier, constant, node, output, save, weight

from convlens.errors import InvalidArgument
from convlens_models.graphs import autodiff, surgery
from convlens_models.importing import verify
from convlens_models.importing.onnx_import import add_onnx
from convlens_models.manifest import INPUT, Manifest
from convlens_models.repository import ModelRepository
from convlens_models.runtime import ort

PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1)}
SIDE = 16


class Tail(NamedTuple):
    """What a file makes of "fc", its scores (N, 5), or of "scores" (N, 5, H, W), its maps of them.

    Attributes:
        kind, logits: what the import finds.
        options: given to it.
    """

    nodes: Sequence[onnx.NodeProto]
    constants: Sequence[onnx.TensorProto]
    kind: str
    logits: str
    options: dict[str, Any] = {}  # noqa: RUF012 - nobody changes it.
    opset: int = 17


SHAPE = constant("shape", np.int64([-1, CLASSES]))
TINY = [constant("low", np.float32(1e-7)), constant("high", np.float32(1 - 1e-7))]
TIGHT = [constant("low", np.float32(0.1)), constant("high", np.float32(0.9))]
TWO, ONE = constant("two", np.float32(2)), constant("one", np.float32(1))
BY_HAND = [
    node("ReduceMax", ["fc"], "max", axes=[1]),
    node("Sub", ["fc", "max"], "shifted"),
    node("Exp", ["shifted"], "exp"),
    node("ReduceSum", ["exp", "classes"], "sum"),
    node("Div", ["exp", "sum"], "end"),
]
SIGMOID_BY_HAND = [
    node("Neg", ["fc"], "minus"),
    node("Exp", ["minus"], "exp"),
    node("Add", ["exp", "one"], "sum"),
    node("Div", ["one", "sum"], "end"),
]
MAPS = [node("Conv", ["relu", "last"], "scores"), node("Softmax", ["scores"], "maps", axis=1)]
LAST = weight("last", CLASSES, 8, 1, 1)
POOLED = [node("GlobalAveragePool", ["scores"], "means")]
OLD = [MAPS[0], *POOLED, node("Softmax", ["means"], "end")]
SOFTMAX = node("Softmax", ["fc"], "p", axis=1)
HALF = [
    node("Cast", ["p"], "half", to=TensorProto.FLOAT16),
    node("Cast", ["half"], "end", to=TensorProto.FLOAT),
]
TAILS = {
    "scores": Tail([node("Identity", ["fc"], "end")], [], "scores", "fc"),
    "softmax": Tail([node("Softmax", ["fc"], "end", axis=1)], [], "probabilities", "fc"),
    "reshape": Tail([SOFTMAX, node("Reshape", ["p", "shape"], "end")], [SHAPE], "probabilities", "fc"),
    "flatten": Tail([SOFTMAX, node("Flatten", ["p"], "end")], [], "probabilities", "fc"),
    "clip": Tail([SOFTMAX, node("Clip", ["p", "low", "high"], "end")], TINY, "probabilities", "fc"),
    "tight clip": Tail(
        [SOFTMAX, node("Clip", ["p", "low", "high"], "c"), node("Identity", ["c"], "end")],
        [constant("low", np.float32(0)), constant("high", np.float32(1))],
        "probabilities",
        "fc",
    ),
    "half precision": Tail([SOFTMAX, *HALF], [], "probabilities", "fc"),
    "temperature": Tail(
        [node("Div", ["fc", "two"], "cool"), node("Softmax", ["cool"], "end", axis=1)],
        [TWO],
        "probabilities",
        "cool",
    ),
    "by hand": Tail(BY_HAND, [constant("classes", np.int64([1]))], "probabilities", "fc"),
    "log": Tail([node("LogSoftmax", ["fc"], "end", axis=1)], [], "log-probabilities", "fc"),
    "log of it": Tail([SOFTMAX, node("Log", ["p"], "end")], [], "log-probabilities", "fc"),
    "exp of log": Tail(
        [node("LogSoftmax", ["fc"], "l", axis=1), node("Exp", ["l"], "end")], [], "probabilities", "fc"
    ),
    "old opset": Tail(OLD, [LAST], "probabilities", "means.flat", {}, 9),
    "mean of maps": Tail(
        [*MAPS, node("ReduceMean", ["maps"], "end", axes=[2, 3], keepdims=0)],
        [LAST],
        "probabilities",
        "end.log",
    ),
    "mean of sigmoids": Tail(
        [
            MAPS[0],
            node("Sigmoid", ["scores"], "s"),
            node("ReduceMean", ["s"], "end", axes=[2, 3], keepdims=0),
        ],
        [LAST],
        "multilabel",
        "end.logit",
    ),
    "sigmoids": Tail([node("Sigmoid", ["fc"], "end")], [], "multilabel", "fc"),
    "sigmoids by hand": Tail(SIGMOID_BY_HAND, [ONE], "multilabel", "fc"),
    "sigmoids to come": Tail(
        [node("Identity", ["fc"], "end")], [], "multilabel", "fc", {"output_kind": "multilabel"}
    ),
    "squashed scores, as told": Tail(
        [node("HardSigmoid", ["fc"], "end")], [], "multilabel", "end.logit", {"output_kind": "multilabel"}
    ),
    "log, as told": Tail(
        [node("LogSoftmax", ["fc"], "end", axis=1)], [], "scores", "end", {"output_kind": "scores"}
    ),
}


def made(tail: Tail, classes: int = CLASSES) -> onnx.ModelProto:
    model = classifier(end="", size=("N", 3, SIDE, SIDE), opset=tail.opset)
    model.graph.node.extend(tail.nodes)
    model.graph.initializer.extend(tail.constants)
    rank = 4 if tail.opset < 13 else 2
    model.graph.output[0].CopyFrom(output("end", rank))
    if classes != CLASSES:
        for tensor in model.graph.initializer:
            if tensor.name in ("fc.weight", "fc.bias"):
                shape = (classes, 8) if tensor.name == "fc.weight" else (classes,)
                tensor.CopyFrom(weight(tensor.name, *shape, seed=classes))
    return model


def add(folder: Path, model: onnx.ModelProto, **options: Any) -> Manifest:
    return add_onnx(folder / "m", save(model, folder), "x", **PLAIN, **options)


def images(count: int = 3, side: int = SIDE) -> np.ndarray:
    """Strong enough that no class is likely everywhere."""
    return verify.noise(count, side) * np.float32([1, 0.5, 2][:count]).reshape(-1, 1, 1, 1)


def of_file(folder: Path, pictures: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(str(folder / "foreign.onnx"))
    return session.run(None, {"data": pictures})[0].reshape(len(pictures), -1).astype(np.float64)


def served(folder: Path, layers: Sequence[str], pictures: np.ndarray) -> list[np.ndarray]:
    stored = ModelRepository(folder / "m").get("x")
    return verify.run(surgery.cut(stored.forward(), layers), stored.path, layers, {INPUT: pictures})


OUTPUTS = {
    "scores": lambda z: np.exp(z) / np.exp(z).sum(1, keepdims=True),
    "probabilities": lambda p: p,
    "log-probabilities": np.exp,
    "sigmoid": lambda p: np.concatenate([1 - p, p], axis=1),
    "multilabel": lambda p: p,
}
"""The probabilities, (N, classes), of a file's output of each kind."""


@pytest.mark.parametrize("case", TAILS)
def test_probabilities_are_those_of_the_file(case: str, tmp_path: Path):
    tail = TAILS[case]
    manifest = add(tmp_path, made(tail), **tail.options)
    assert (manifest.output_kind, manifest.output) == (tail.kind, tail.logits)
    assert manifest.independent == (tail.kind == "multilabel")
    pictures = images()
    expected = OUTPUTS[tail.kind](of_file(tmp_path, pictures))
    if case == "sigmoids to come":
        expected = 1 / (1 + np.exp(-of_file(tmp_path, pictures)))
    logits, found, logs = served(tmp_path, [tail.logits, "probabilities", "log_probabilities"], pictures)
    assert logits.shape == found.shape == (3, CLASSES)
    half = 2e-3 if case == "half precision" else 1e-5  # Of these the sum is 1 to half precision.
    np.testing.assert_allclose(found, expected, rtol=half, atol=1e-6)
    np.testing.assert_allclose(np.exp(logs), found, rtol=1e-5)
    assert not [
        layer.name for layer in manifest.layers if "clipped" in layer.name or "softplus" in layer.name
    ]


@pytest.mark.parametrize("end", ["Sigmoid", "HardSigmoid"])
def test_one_sigmoid_becomes_two_classes(end: str, tmp_path: Path):
    manifest = add(tmp_path, made(Tail([node(end, ["fc"], "end")], [], "", ""), 1))
    assert (manifest.output_kind, len(manifest.labels)) == ("sigmoid", 2)
    logits, found = served(tmp_path, [manifest.output, "probabilities"], images())
    p = of_file(tmp_path, images())
    np.testing.assert_allclose(found, np.concatenate([1 - p, p], axis=1), rtol=1e-5)
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], np.log(p / (1 - p))[:, 0], rtol=1e-4, atol=1e-5)
    if end == "Sigmoid":
        np.testing.assert_allclose(logits[:, 0], -logits[:, 1])


def test_one_score_is_the_logit_of_two_classes(tmp_path: Path):
    model = made(Tail([node("Identity", ["fc"], "end")], [], "", ""), 1)
    for kind in ("sigmoid", "scores"):
        manifest = add(tmp_path, model, output_kind=kind)
        (found,) = served(tmp_path, ["probabilities"], images())
        assert manifest.output_kind == kind
        np.testing.assert_allclose(found[:, 1:], 1 / (1 + np.exp(-of_file(tmp_path, images()))), rtol=1e-5)


@pytest.mark.parametrize("case", ["by hand", "mean of maps", "mean of sigmoids", "sigmoids"])
def test_gradients_of_log_probabilities_are_those_of_the_file_by_finite_differences(
    case: str, tmp_path: Path
):
    tail = TAILS[case]
    add(tmp_path, made(tail))
    stored, picture = ModelRepository(tmp_path / "m").get("x"), images(1)
    graph = autodiff.differentiate(stored.forward(), "log_probabilities", autodiff.ReluRule.GRADIENT)
    feeds = {INPUT: picture, autodiff.COTANGENT: np.eye(CLASSES, dtype=np.float32)[[2]]}
    _, gradient = verify.run(graph, stored.path, ["log_probabilities", autodiff.IMAGE_GRADIENT], feeds)
    direction = np.sign(gradient) * np.float32(5e-4)
    plus, minus = (of_file(tmp_path, picture + sign * direction)[0, 2] for sign in (1, -1))
    assert (np.log(plus) - np.log(minus)) / 2 == pytest.approx((gradient * direction).sum(), rel=5e-3)


def test_certain_probabilities_have_finite_scores(tmp_path: Path):
    """A mean of maps, as they are, where P of all classes but one is 0 in float32."""
    tail = TAILS["mean of maps"]
    far = constant(
        "last",
        np.float32(500)
        * np.arange(CLASSES, dtype=np.float32).reshape(-1, 1, 1, 1)
        * np.ones((1, 8, 1, 1), np.float32),
    )
    manifest = add(tmp_path, made(tail._replace(constants=[far])))
    logits, logs = served(tmp_path, [manifest.output, "log_probabilities"], images())
    assert of_file(tmp_path, images()).min() == 0
    assert np.isfinite(logits).all()
    assert np.isfinite(logs).all()


NORMALISED = [
    node("Relu", ["fc"], "positive"),
    node("Add", ["positive", "one"], "more"),
    node("ReduceSum", ["more", "classes"], "sum"),
    node("Div", ["more", "sum"], "end"),
]
CLASS_AXIS = constant("classes", np.int64([1]))
IDENTITY = Tail([node("Identity", ["fc"], "end")], [], "", "")
HALVED = [node("Softmax", ["fc"], "p", axis=1), node("Div", ["p", "two"], "end")]
CLIPPED = Tail([node("Clip", ["fc", "low", "high"], "end")], TIGHT, "", "")
UNDECIDED = {
    "clipped": (CLIPPED, {}, "scores or multilabel"),
    "of other sums": (Tail(HALVED, [TWO], "", ""), {}, "comes after Softmax and is 5 numbers"),
    "sums without softmax": (
        Tail(NORMALISED, [ONE, CLASS_AXIS], "", ""), {},
        "scores or multilabel or probabilities.*sum to between 1 and 1",
    ),
    "one score": ((IDENTITY, 1), {}, "scores or sigmoid.*is one number"),
    "not probabilities": (
        IDENTITY, {"output_kind": "probabilities"}, "output_kind = 'probabilities'.*in \\[0, 1\\] and sum"
    ),
    "not logarithms": (IDENTITY, {"output_kind": "log-probabilities"}, "exponentials sum to 1"),
    "many as one": (IDENTITY, {"output_kind": "sigmoid"}, "scores or multilabel: the output is 5 numbers"),
    "one as many": ((IDENTITY, 1), {"output_kind": "multilabel"}, "scores or sigmoid"),
    "softmax as scores": (
        TAILS["reshape"], {"output_kind": "scores"}, "must be probabilities: the output is the softmax of fc"
    ),
    "softmax as multilabel": (TAILS["softmax"], {"output_kind": "multilabel"}, "softmax of fc"),
    "sigmoids as scores": (TAILS["sigmoids"], {"output_kind": "scores"}, "must be multilabel.*sigmoid of fc"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNDECIDED)
def test_what_graph_and_values_do_not_decide_is_refused_with_the_choice(case: str, tmp_path: Path):
    tail, options, message = UNDECIDED[case]
    model = made(tail) if isinstance(tail, Tail) else made(*tail)
    with pytest.raises(InvalidArgument, match=message):
        add(tmp_path, model, **options)


def test_the_choice_is_taken(tmp_path: Path):
    model = made(Tail(NORMALISED, [ONE, CLASS_AXIS], "", ""))
    assert add(tmp_path, model, output_kind="probabilities").output == "end.log"
    (found,) = served(tmp_path, ["probabilities"], images())
    np.testing.assert_allclose(found, of_file(tmp_path, images()), rtol=1e-5)
    assert add(tmp_path, model, output_kind="scores").output == "end"


def test_of_several_outputs_one_is_named(tmp_path: Path):
    model = classifier()
    model.graph.output.append(output("relu", 4))
    with pytest.raises(
        InvalidArgument, match=r"output = '2 outputs'.*--output NAME: one of end \(end.0, end.1\), relu"
    ):
        add(tmp_path, model)
    with pytest.raises(InvalidArgument, match="output = 'pool': must be one of the file's outputs: end"):
        add(tmp_path, model, output="pool")
    manifest = add(tmp_path, model, output="end")
    assert (manifest.output_kind, manifest.output) == ("probabilities", "fc")


def test_scores_in_0_to_1_that_nothing_bounds_need_no_choice(tmp_path: Path):
    """SqueezeNet ends with ReLU and a pool: untrained, its scores are small."""
    tail = Tail([node("Relu", ["fc"], "end")], [], "", "")
    model = made(tail)
    for tensor in model.graph.initializer:
        if tensor.name == "fc.weight":
            tensor.CopyFrom(constant("fc.weight", np.float32(0.01) * np.ones((CLASSES, 8), np.float32)))
    assert add(tmp_path, model).output_kind == "scores"


def test_a_manifest_from_before_means_a_softmax_of_scores(tmp_path: Path):
    manifest = add(tmp_path, made(IDENTITY))
    text = (tmp_path / "m" / "x" / "1" / "manifest.json").read_text()
    assert "output_kind" not in text
    assert Manifest.model_validate_json(text).output_kind == "scores"
    other = manifest.model_copy(update={"output_kind": "multilabel"}).sealed()
    assert other.digest != manifest.digest
