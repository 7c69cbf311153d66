"""What the service computes of an imported file, held against ONNX Runtime's own run of the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from support.foreign_onnx import save

from convlens_models.graphs import autodiff, surgery
from convlens_models.importing import verify
from convlens_models.importing.onnx_import import add_onnx
from convlens_models.manifest import INPUT, Manifest
from convlens_models.repository import ModelRepository
from convlens_models.runtime import ort

Images = np.ndarray


def run_file(path: Path, feed: Images) -> Images:
    """What the file itself computes, one image at a time."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
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


def served(root: Path, layers: list[str], images: Images) -> list[Images]:
    """Values of the stored graph."""
    stored = ModelRepository(root).get("x")
    return verify.run(surgery.cut(stored.forward(), layers), stored.path, layers, {INPUT: images})


def gradient_of(root: Path, images: Images, cotangent: Images) -> Images:
    """The served gradient of the logits for a cotangent, by the images."""
    stored = ModelRepository(root).get("x")
    part = autodiff.differentiate(stored.forward(), stored.manifest.output)
    feeds = {INPUT: images, autodiff.COTANGENT: cotangent}
    return verify.run(part, stored.path, [autodiff.IMAGE_GRADIENT], feeds)[0]
