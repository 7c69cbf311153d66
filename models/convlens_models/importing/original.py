"""A user's file as it is, in ONNX Runtime: what a network of ours must compute."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from convlens.errors import InvalidArgument
from convlens_models.graphs import surgery
from convlens_models.importing import verify
from convlens_models.importing.exact import Exact
from convlens_models.importing.inputs import Form, read_inputs
from convlens_models.manifest import Rgb

Array = NDArray[Any]


class Original:
    """A user's graph, untouched: its weights are read by ONNX Runtime.

    Args:
        mean, std, bgr: what becomes of RGB in [0, 1] before the graph's input.
        taken, white: the form that this input has then, and the value of alpha.
        output: the name of the output that is a classifier's.

    Attributes:
        batch: images that its input declares; 0 if any.
        opened: whether its input's height and width were declared, and are no longer.
    """

    def __init__(
        self,
        file: Path,
        mean: Rgb,
        std: Rgb,
        bgr: bool,
        *,
        taken: Form,
        white: float,
        output: str,
    ) -> None:
        self.file, self.output, self.opened = file, output, False
        self._taken, self._white = taken, white
        model = onnx.load(file, load_external_data=False)
        (info,) = read_inputs(model.graph)
        weights = {tensor.name for tensor in model.graph.initializer}
        kept = [each for each in model.graph.input if each.name in weights or each.name == info.name]
        surgery.replace(model.graph.input, kept)  # Without what no node reads.
        self.batch = int(info.type.tensor_type.shape.dim[0].dim_value)
        self._source = info.name
        self._model = model
        self.values_made = {value: node for node in model.graph.node for value in node.output}
        self._mean, self._std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (mean, std))
        self._order = slice(None, None, -1 if bgr else 1)
        self._sessions: dict[tuple[str, ...], verify.Session | _Reference] = {}

    def open(self) -> Original:
        """The same graph, its input's height and width open."""
        opened = copy.copy(self)
        opened.opened, opened._sessions = True, {}
        opened._model = surgery.opened(self._model, self._source)
        return opened

    def pixels(self, images: Array) -> Array:
        """What the graph's input is for images (N, 3, H, W) in [0, 1], in the type that it has."""
        return self._taken.feed(((images - self._mean) / self._std)[:, self._order], self._white)

    def exact_pixels(self, images: Array) -> Array:
        """The same in float64, whatever the type."""
        pixels = ((images.astype(np.float64) - self._mean) / self._std)[:, self._order]
        return self._taken.planes(pixels, self._white)

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

    def _session(self, names: tuple[str, ...], plain: bool = False) -> verify.Session | _Reference:
        key = (*names, "plain") if plain else names
        if key not in self._sessions:
            part = surgery.cut(self._model, names)
            try:
                self._sessions[key] = verify.Session(part, self.file.parent, names, plain=plain)
            except InvalidArgument:  # Some operators it has in float32 alone.
                self._sessions[key] = _Reference(self.file, names)
        return self._sessions[key]


class _Reference:
    """ONNX's reference in the place of a session, for what ONNX Runtime does not run."""

    def __init__(self, file: Path, names: Sequence[str]) -> None:
        self._values = [Exact(onnx.load(file), name) for name in names]

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """The values for the one input."""
        (pixels,) = feeds.values()
        return [each.value(pixels) for each in self._values]
