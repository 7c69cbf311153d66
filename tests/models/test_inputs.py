"""Files that take their image in another layout, with other channels or other numbers, served from RGB."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.foreign_onnx import CLASSES, classifier, node, save, weight
from support.served import gradient_equals_the_slope, logits_equal_the_file, served

from convlens.errors import InvalidArgument
from convlens_models.importing import verify
from convlens_models.importing.inputs import form
from convlens_models.importing.onnx_import import add_onnx


def taking(
    *sizes: int | str,
    kind: int = TensorProto.FLOAT,
    before: list[onnx.NodeProto] | None = None,
    channels: int = 3,
) -> onnx.ModelProto:
    """A classifier of logits with another input: `before` makes "data" of it."""
    model = classifier(end="", size=("N", 3, 32, 32))
    kernel = next(tensor for tensor in model.graph.initializer if tensor.name == "conv.weight")
    kernel.CopyFrom(weight("conv.weight", 8, channels, 3, 3))
    name = "picture" if before else "data"
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info(name, kind, sizes))
    nodes = [*(before or []), *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


LAST = [node("Transpose", ["picture"], "data", perm=[0, 3, 1, 2])]
CAST = [node("Cast", ["picture"], "data", to=TensorProto.FLOAT)]
CAST_LAST = [
    node("Cast", ["picture"], "real", to=TensorProto.FLOAT),
    node("Transpose", ["real"], "data", perm=[0, 3, 1, 2]),
]


def last(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


def grey(images: np.ndarray) -> np.ndarray:
    red, green, blue = images.transpose(1, 0, 2, 3)
    return np.asarray(0.299 * red + 0.587 * green + 0.114 * blue, images.dtype)[:, None]


def opaque(images: np.ndarray) -> np.ndarray:
    return np.concatenate([images, np.ones_like(images[:, :1])], axis=1)


def whole(images: np.ndarray) -> np.ndarray:
    return np.rint(images * 255).astype(np.uint8)


class Case(NamedTuple):
    """A file, what its input is given for an image, what is told, and options of the import."""

    model: onnx.ModelProto
    feed: Callable[[np.ndarray], np.ndarray]
    told: str
    options: Mapping[str, Any] = MappingProxyType({})


def in_precision(dtype: type, kind: int) -> onnx.ModelProto:
    model = classifier(end="", dtype=kind, size=("N", 3, 32, 32))
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor).astype(dtype)
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return model


CASES = {
    "last": Case(taking("N", 32, 32, 3, before=LAST), last, "channels come last"),
    "last, open": Case(taking("N", "H", "W", 3, before=LAST), last, "channels come last"),
    "last, told": Case(
        taking("N", "H", "W", "C", before=LAST), last, "channels come last", {"layout": "nhwc"}
    ),
    "grey": Case(taking("N", 1, 32, 32, channels=1), grey, "luminance .299 R"),
    "grey, last": Case(
        taking("N", 32, 32, 1, before=LAST, channels=1), lambda x: last(grey(x)), "luminance .299 R"
    ),
    "alpha": Case(taking("N", 4, 32, 32, channels=4), opaque, "alpha, is 1 everywhere"),
    "alpha of bytes": Case(
        taking("N", 4, 32, 32, channels=4),
        lambda x: opaque(x) * 255,
        "alpha, is 255 everywhere",
        {"input_range": "0..255"},
    ),
    "bytes": Case(taking("N", 3, 32, 32, kind=TensorProto.UINT8, before=CAST), whole, "from 0 to 255"),
    "bytes, last": Case(
        taking("N", 32, 32, 3, kind=TensorProto.UINT8, before=CAST_LAST),
        lambda images: last(whole(images)),
        "come last",
    ),
    "bytes, alpha": Case(
        taking("N", 4, 32, 32, kind=TensorProto.UINT8, before=CAST, channels=4),
        lambda x: whole(opaque(x)),
        "alpha, is 255 everywhere",
    ),
}


SMOOTH = {
    "bytes": lambda images: images * 255,
    "bytes, last": lambda images: last(images * 255),
    "bytes, alpha": lambda images: opaque(images) * 255,
}
"""What bytes would be, if they were not whole."""


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_file_and_gradients_its_slopes(case: str, tmp_path: Path):
    model, feed, told, options = CASES[case]
    given = {"mean": None, "std": None} if case in SMOOTH else {}
    manifest = logits_equal_the_file(tmp_path, model, feed, **given, **options)
    assert told in " ".join(manifest.notes)
    gradient_equals_the_slope(tmp_path / "m", model, SMOOTH.get(case, feed))


@pytest.mark.parametrize("case", CASES)
def test_the_form_feeds_the_file_what_the_graph_makes_of_pixels(case: str):
    model, feed, _, options = CASES[case]
    images = np.round(verify.noise(2, 8) * 255) / np.float32(255)
    white = 255 if "bytes" in case else 1
    fed = form(model, options.get("layout")).feed(images * white, white)
    np.testing.assert_allclose(fed, feed(images), rtol=1e-6)
    assert fed.dtype == feed(images).dtype
    planes = form(model, options.get("layout")).planes(images.astype(np.float64) * white, white)
    np.testing.assert_allclose(planes, feed(images), rtol=1e-6)
    assert planes.dtype == np.float64


def test_half_precision_is_computed_in_single(tmp_path: Path):
    model = in_precision(np.float16, TensorProto.FLOAT16)
    manifest = logits_equal_the_file(tmp_path, model, lambda x: x.astype(np.float16), tolerance=2e-3)
    assert "the file is in FLOAT16" in manifest.notes[0]
    gradient_equals_the_slope(tmp_path / "m", model)


def test_double_precision_is_computed_in_single(tmp_path: Path):
    model = in_precision(np.float64, TensorProto.DOUBLE)
    manifest = add_onnx(tmp_path / "m", save(model, tmp_path), "x", mean=(0, 0, 0), std=(1, 1, 1))
    assert "the file is in DOUBLE" in manifest.notes[0]
    gradient_equals_the_slope(tmp_path / "m", model)
    images = verify.noise(1, 32)
    exact = onnx.reference.ReferenceEvaluator(model).run(None, {"data": images.astype(np.float64)})[0]
    np.testing.assert_allclose(
        served(tmp_path / "m", [manifest.output], images)[0], exact, rtol=1e-5, atol=1e-5
    )


def test_weights_that_are_stored_in_less_are_weights(tmp_path: Path):
    """A file may keep its weights in bfloat16 and cast them."""
    model = classifier(end="", size=("N", 3, 32, 32))
    kernel = next(tensor for tensor in model.graph.initializer if tensor.name == "conv.weight")
    value = numpy_helper.to_array(kernel)
    kernel.CopyFrom(helper.make_tensor("few", TensorProto.BFLOAT16, value.shape, value.ravel()))
    model.graph.node.insert(0, node("Cast", ["few"], "conv.weight", to=TensorProto.FLOAT))
    manifest = logits_equal_the_file(tmp_path, model)
    assert not manifest.notes
    assert manifest.layer("conv").weight == "conv.weight"


def beyond() -> onnx.ModelProto:
    model = in_precision(np.float64, TensorProto.DOUBLE)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "fc.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(CLASSES, 1e300), "fc.bias"))
    return model


def brain() -> onnx.ModelProto:
    few = node("Cast", ["relu"], "few", to=TensorProto.BFLOAT16)
    return classifier([few, node("Cast", ["few"], "middle", to=TensorProto.FLOAT)])


def counting() -> onnx.ModelProto:
    halved = [node("Div", ["picture", "two"], "half"), node("Cast", ["half"], "data", to=TensorProto.FLOAT)]
    model = taking("N", 3, 32, 32, kind=TensorProto.UINT8, before=halved)
    model.graph.initializer.append(numpy_helper.from_array(np.uint8(2), "two"))
    return model


FIVE = taking("N", 5, 32, 32, channels=5)
PLAIN = taking("N", 3, 32, 32)
BYTES = CASES["bytes"].model
REFUSED = {
    "five channels": (FIVE, {}, r"model.inputs.data = .*5, 32, 32.*C of 1, 3 or 4"),
    "another layout": (PLAIN, {"layout": "nhwc"}, "layout is nhwc"),
    "signed bytes": (taking("N", 3, 32, 32, kind=TensorProto.INT8, before=CAST), {}, "INT8 .*UINT8, INT32"),
    "range of bytes": (BYTES, {"input_range": "0..1"}, "input_range = '0..1': must be left out"),
    "mean of bytes": (BYTES, {"mean": (0.5, 0.5, 0.5)}, "mean = .*: must be left out: the file takes whole"),
    "blue first in grey": (CASES["grey"].model, {"bgr": True}, "bgr = True: must be left out"),
    "beyond": (beyond(), {}, "numbers of 'fc.bias'.*within those of float32"),
    "bfloat16": (brain(), {}, "model.precision = 'BFLOAT16': must be FLOAT.*export it in float32"),
    "whole arithmetic": (counting(), {}, "Div node 'node of half': it computes with whole numbers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_given_is_refused_with_what_can(case: str, tmp_path: Path):
    model, options, message = REFUSED[case]
    with pytest.raises(InvalidArgument, match=message):
        add_onnx(tmp_path / "m", save(model, tmp_path), "x", **options)
