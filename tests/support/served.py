"""What the service computes of an imported file, held against ONNX Runtime's own run of the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from support.foreign_onnx import save

from convlens_models.graphs import autodiff, surgery
from convlens_models.importing import verify
from convlens_models.importing.onnx_import import add_onnx
from convlens_models.manifest import INPUT, Manifest
from convlens_models.repository import ModelRepository
from convlens_models.runtime import ort

Images = np.ndarray


def run_file(path: Path, feed: Images) -> Images:
    """What the file itself computes, one image at a time.

    Higher levels of the runtime put its own kernels in the place of quantised nodes; they round otherwise.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    rows = [session.run(None, {name: feed[i : i + 1]})[0] for i in range(len(feed))]
    return np.concatenate(rows).astype(np.float64).reshape(len(feed), -1)


def logits_equal_the_file(
    folder: Path,
    model: onnx.ModelProto | Path,
    feed: Callable[[Images], Images] = lambda images: images,
    tolerance: float = 1e-5,
    size: int = 32,
    value: str = "",
    **options,
) -> Manifest:
    """Import the file, and compare its output (or the served `value`) on three pictures of whole pixels.

    Pixels reach the network as they are, in [0, 1], unless `options` say otherwise.

    Args:
        feed: what becomes of images (N, 3, H, W) in [0, 1] before the file's input.
        tolerance: relative to the largest number.
    """
    path = model if isinstance(model, Path) else save(model, folder)
    given = {"mean": (0, 0, 0), "std": (1, 1, 1), **options}
    manifest = add_onnx(folder / "m", path, "x", **given)
    images = np.round(verify.noise(3, size) * 255) / np.float32(255)
    expected = run_file(path, feed(images))
    if not value:
        sums = bool(np.allclose(expected.sum(1), 1, atol=1e-3)) and bool((expected >= 0).all())
        value = "probabilities" if sums else manifest.output
    (found,) = served(folder / "m", [value], images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())
    return manifest


def gradient_equals_the_slope(
    root: Path,
    model: onnx.ModelProto,
    feed: Callable[[Images], Images] = lambda images: images,
    size: int = 32,
    tolerance: float = 1e-4,
) -> None:
    """Compare the served gradient of the logits with finite differences of the file, computed in float64.

    Along random directions, relative to the largest slope; `feed` may be given float64.
    """
    random = np.random.default_rng(1)
    images, cotangent = random.random((1, 3, size, size)), random.normal(size=(1, 5))
    exact = ReferenceEvaluator(doubled(model))
    name = exact.input_names[0]

    def value(images: Images) -> float:
        return float((exact.run(None, {name: feed(images)})[0] * cotangent).sum())

    directions = random.normal(size=(4, *images.shape))
    step = 1e-6
    slopes = [(value(images + step * d) - value(images - step * d)) / (2 * step) for d in directions]
    gradient = gradient_of(root, images.astype(np.float32), cotangent.astype(np.float32))
    found = [float((gradient * d).sum()) for d in directions]
    np.testing.assert_allclose(found, slopes, rtol=0, atol=tolerance * np.abs(slopes).max())


def doubled(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with all of its numbers in float64."""
    twin = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in twin.graph.initializer:
        if tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16):
            value = numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    for info in (*twin.graph.input, *twin.graph.output):
        info.type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in twin.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i in (TensorProto.FLOAT, TensorProto.FLOAT16):
                attribute.i = TensorProto.DOUBLE
    return twin


def served(root: Path, layers: list[str], images: Images) -> list[Images]:
    """Values of the stored graph."""
    stored = ModelRepository(root).get("x")
    return verify.run(surgery.cut(stored.forward(), layers), stored.path, layers, {INPUT: images})


def gradient_of(
    root: Path, images: Images, cotangent: Images, rule: autodiff.ReluRule = autodiff.ReluRule.GRADIENT
) -> Images:
    """The served gradient of the logits for a cotangent, by the images."""
    stored = ModelRepository(root).get("x")
    part = autodiff.differentiate(stored.forward(), stored.manifest.output, rule)
    feeds = {INPUT: images, autodiff.COTANGENT: cotangent}
    return verify.run(part, stored.path, [autodiff.IMAGE_GRADIENT], feeds)[0]
