"""A user's file as it is, in ONNX Runtime: what a network of ours must compute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from convlens_models.graphs import surgery
from convlens_models.importing import verify
from convlens_models.manifest import Rgb

Array = NDArray[Any]


class Original:
    """A user's graph, untouched: its weights are read by ONNX Runtime.

    Args:
        mean, std, bgr: what becomes of RGB in [0, 1] before the graph's input.

    Attributes:
        batch: images that its input declares; 0 if any.
        output: the name of its first output.
        opened: whether its input's height and width were declared, and are no longer.
    """

    def __init__(self, file: Path, mean: Rgb, std: Rgb, bgr: bool, *, opened: bool = False) -> None:
        self.file, self.opened = file, opened
        self._options = (mean, std, bgr)
        model = onnx.load(file, load_external_data=False)
        constants = {tensor.name for tensor in model.graph.initializer}
        (info,) = (info for info in model.graph.input if info.name not in constants)
        self.batch = int(info.type.tensor_type.shape.dim[0].dim_value)
        self._source = info.name
        self._type = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        self._model = surgery.opened(model, info.name) if opened else model
        self.output = model.graph.output[0].name
        self.values_made = {value: node for node in model.graph.node for value in node.output}
        self._mean, self._std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (mean, std))
        self._order = slice(None, None, -1 if bgr else 1)
        self._sessions: dict[tuple[str, ...], verify.Session] = {}

    def open(self) -> Original:
        """The same graph, its input's height and width open."""
        return Original(self.file, *self._options, opened=True)

    def pixels(self, images: Array) -> Array:
        """What the graph's input is for images (N, 3, H, W) in [0, 1], in the type that it has."""
        wanted = ((images - self._mean) / self._std)[:, self._order]
        return np.ascontiguousarray(wanted).astype(self._type, copy=False)

    def exact_pixels(self, images: Array) -> Array:
        """The same in float64, whatever the type."""
        return ((images.astype(np.float64) - self._mean) / self._std)[:, self._order]

    def plain(self, images: Array) -> Array:
        """The output once more, by the graph's nodes as they stand: another order of the same sums."""
        session = self._session((self.output,), plain=True)
        feeds = {self._source: np.repeat(self.pixels(images), self.batch or 1, 0)}
        return session.run(feeds)[0][: len(images)]

    def values(self, images: Array, names: Sequence[str]) -> list[Array]:
        """The values called `names` there, for each of the images by itself unless the batch is open.

        Raises:
            InvalidArgument: it cannot run for images of this size.
        """
        session = self._session(tuple(names))
        step = 1 if self.batch else len(images)
        parts = [
            session.run({self._source: np.repeat(self.pixels(images[i : i + step]), self.batch or 1, 0)})
            for i in range(0, len(images), step)
        ]
        return [self._joined([part[i] for part in parts]) for i in range(len(names))]

    def _joined(self, parts: list[Array]) -> Array:
        several = self.batch > 1
        return np.concatenate([part[: len(part) // self.batch] if several else part for part in parts])

    def _session(self, names: tuple[str, ...], plain: bool = False) -> verify.Session:
        key = (*names, "plain") if plain else names
        if key not in self._sessions:
            part = surgery.cut(self._model, names)
            self._sessions[key] = verify.Session(part, self.file.parent, names, plain=plain)
        return self._sessions[key]
