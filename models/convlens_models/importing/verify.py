"""Runs a staged network before it is published: what cannot work fails at import, not at a user's call."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from convlens.errors import InvalidArgument
from convlens_models.graphs import autodiff, surgery
from convlens_models.manifest import INPUT
from convlens_models.runtime import ort

CODES: Final = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
TOLD: Final = 300
FOLDER_KEY = "session.model_external_initializers_file_folder_path"


class Session:
    """`model`, whose weights lie in `folder`, built to compute the values `outputs` more than once.

    Args:
        plain: by its nodes as they stand, none joined with another.

    Raises:
        InvalidArgument: ONNX Runtime refuses the graph, or later the input.
    """

    def __init__(
        self, model: onnx.ModelProto, folder: Path, outputs: Sequence[str], *, plain: bool = False
    ) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4  # What goes wrong is raised; it need not be printed as well.
        # One run does not repay long optimisation.
        levels = ort.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_DISABLE_ALL if plain else levels.ORT_ENABLE_BASIC
        options.add_session_config_entry(FOLDER_KEY, str(folder))
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # Imports share their cores.
        self._outputs = list(outputs)
        try:
            self._session = ort.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors have no common public base.
            raise _refused(error) from error

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
        """The values for these inputs."""
        try:
            values: list[NDArray[np.float32]] = self._session.run(self._outputs, dict(feeds))
        except Exception as error:  # onnxruntime's errors have no common public base.
            raise _refused(error) from error
        return values


def _refused(error: Exception) -> InvalidArgument:
    """The first line of what it says, without its codes."""
    text = CODES.sub("", str(error)).split("\n")[0][:TOLD]
    return InvalidArgument(f"model: ONNX Runtime cannot run it: {text}", field="model")


def run(
    model: onnx.ModelProto, folder: Path, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]]
) -> list[NDArray[np.float32]]:
    """The values `outputs` of `model`, whose weights lie in `folder`.

    Raises:
        InvalidArgument: ONNX Runtime refuses the graph or the input.
    """
    return Session(model, folder, outputs).run(feeds)


def noise(batch: int, size: int) -> NDArray[np.float32]:
    """The same random images (batch, 3, size, size) every time."""
    return np.random.default_rng(0).random((batch, 3, size, size), np.float32)


def check_classifier(model: onnx.ModelProto, folder: Path, output: str, size: int) -> int:
    """Compute the logits of one image, and their gradient by every ReLU rule; returns the number of classes.

    Raises:
        InvalidArgument: an operator cannot run or be differentiated, the output is not (1, classes), or a
            value is not finite.
    """
    images = noise(1, size)
    (logits,) = run(surgery.cut(model, [output]), folder, [output], {INPUT: images})
    if logits.ndim != 2 or logits.shape[0] != 1:
        shown = ["N", *logits.shape[1:]]
        raise InvalidArgument.of("model.output", f"{output} of shape {shown}", "scores of shape (N, classes)")
    values = {"the output": logits}
    for rule in autodiff.rules(model):
        gradient = autodiff.differentiate(model, output, rule, (1, size, size))
        names = [output, autodiff.IMAGE_GRADIENT]
        feeds = {INPUT: images, autodiff.COTANGENT: np.ones_like(logits)}
        values[f"the gradient ({rule})"] = run(gradient, folder, names, feeds)[1]
    check_finite(values)
    return int(logits.shape[1])


def check_finite(values: Mapping[str, NDArray[Any]]) -> None:
    """Raise InvalidArgument, which names the value, unless all numbers are finite."""
    if wrong := [name for name, value in values.items() if not np.isfinite(value).all()]:
        raise InvalidArgument(f"model: {wrong[0]} is not finite on a random image", field="model")
