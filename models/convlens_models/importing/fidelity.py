"""Files that are computed in other numbers than their own, held against their own run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from convlens.errors import InvalidArgument
from convlens_models.importing import notes, verify
from convlens_models.importing.inputs import Form
from convlens_models.importing.precision import PRECISION
from convlens_models.importing.quantised import QUANTISATION
from convlens_models.manifest import Rgb
from convlens_models.runtime import ort

TOLERANCES: Final = {PRECISION: 2.0**-5, QUANTISATION: 0.5}
"""Of the largest output, by what the notes begin with.

Half precision has 2^-10 of each value, and as many layers as a network has add to that. Of a quantised file
ONNX Runtime's own levels of optimisation differ by 10% where a network is deep and its weights random: one
value that is rounded the other way changes those behind it; and its products of 8 bits saturate on processors
without VNNI. So this finds what is another network, and the note tells how near it is.
"""
SIZES: Final = (64, 224)
"""Sides of the image, where the file leaves them open; the first at which it runs."""


def tolerance(model: onnx.ModelProto) -> float | None:
    """How far outputs, relative to the largest, may be from the file's own; None: as float32 explains it."""
    told = notes.of(model)
    found = [limit for start, limit in TOLERANCES.items() if any(note.startswith(start) for note in told)]
    return max(found, default=None)


def check(
    file: Path, model: onnx.ModelProto, taken: Form, normalisation: tuple[Rgb, Rgb], white: float
) -> None:
    """Note by how much `model` differs from the file that it was read from, if that is in other numbers.

    Args:
        taken, white: what the file's input is given, see `Form.feed`.
        normalisation: mean and deviation of RGB in [0, 1].

    Raises:
        InvalidArgument: by more than `TOLERANCES` allow.
    """
    told, allowed = notes.of(model), tolerance(model)
    if allowed is None:
        return
    difference = _difference(file, model, taken, normalisation, white)
    if difference is None:
        notes.put(
            model, [*told, "ONNX Runtime cannot run the file itself, so that it was not held against it"]
        )
        return
    if difference > allowed:
        shown = f"{difference:.2g} of the largest output away from the file's own run"
        raise InvalidArgument.of("model", shown, f"at most {allowed:.2g}")
    text = f"its outputs differ from the file's own run by at most {difference:.1g} of the largest"
    notes.put(model, [*told, text])


def _difference(
    file: Path, model: onnx.ModelProto, taken: Form, normalisation: tuple[Rgb, Rgb], white: float
) -> float | None:
    """The largest difference of an output, relative to the largest; None where the file does not run."""
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in normalisation)
    (image,) = model.graph.input
    sides = [dim.dim_value for dim in image.type.tensor_type.shape.dim[2:]]
    for height, width in [sides] if all(sides) else [[side or size for side in sides] for size in SIZES]:
        noise = verify.noise(1, max(height, width))[..., :height, :width]
        pixels = np.asarray((np.round(noise * 255) / np.float32(255) - mean) / std, np.float32)
        exact = _run(file, taken.name, taken.feed(pixels, white), taken.kind)
        if exact is None:
            continue
        names = [info.name for info in model.graph.output]
        found = verify.run(model, Path(), names, {image.name: pixels})
        pairs = zip(found, exact, strict=True)
        return max(float(np.abs(a - b).max() / (np.abs(b).max() or 1)) for a, b in pairs)
    return None


def _run(file: Path, name: str, feed: NDArray[np.generic], kind: int) -> list[NDArray[np.float64]] | None:
    """The outputs of the file itself."""
    for run in _runs(file, kind):
        try:
            return [np.asarray(value, np.float64) for value in run.run(None, {name: feed})]
        except Exception:  # Neither runtime's errors have a common public base.
            continue
    return None


def _runs(file: Path, kind: int) -> Iterator[ort.InferenceSession | ReferenceEvaluator]:
    """What may run the file; first ONNX's own, but for half precision, in which it is slow."""
    if kind != TensorProto.FLOAT16:
        with suppress(Exception):  # Of operators that it does not have.
            yield ReferenceEvaluator(str(file))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    try:
        yield ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception:  # onnxruntime's errors have no common public base.
        return
