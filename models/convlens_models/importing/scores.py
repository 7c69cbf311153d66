"""The last nodes of a classifier's graph: scores of what its file gives, their probabilities and logarithms.

With z the score of a class, P = exp(z) / sum of all exp(z); of independent classes, P = 1 / (1 + exp(-z)).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from convlens_models.graphs.surgery import replace
from convlens_models.manifest import LOG_PROBABILITIES, PROBABILITIES, OutputKind

LEAST: Final = float(np.finfo(np.float32).tiny)
"""The smallest probability whose logarithm is taken; below, the score stays and has no gradient."""


class Form(NamedTuple):
    """How a value is kept: the number of its axes, the batch's included, and the type of its numbers."""

    axes: int
    dtype: np.dtype[Any]


class Scores:
    """Appends nodes to `model`; `value` is what the last of them made, `hidden` are the steps before.

    >>> scores = Scores(model, "y")
    >>> scores.invert("probabilities")
    >>> scores.finish(independent=False)
    """

    def __init__(self, model: onnx.ModelProto, value: str) -> None:
        self.model = model
        self.value = value
        self.hidden: set[str] = set()
        self._stem = value

    def vector(self, form: Form) -> None:
        """Make the value float32 (N, classes)."""
        if form.dtype != np.float32:
            self._add("Cast", self.value, to="float", attributes={"to": TensorProto.FLOAT})
        if form.axes != 2:
            self._add("Flatten", self.value, to="flat", attributes={"axis": 1})

    def two_classes(self) -> None:
        """Scores (-z/2, z/2) of the one z (N, 1), whose softmax is (1 - P, P).

        Half each, so that both classes have gradients.
        """
        self._add("Mul", self.value, self._constant("halves", [[-0.5, 0.5]]), to="two_classes")

    def invert(self, kind: OutputKind) -> None:
        """Scores of probabilities P: log P, or log P - log (1 - P) for each that is a sigmoid."""
        certain = self.value
        if kind == "probabilities":
            self._log(certain, "log")
            return
        against = self._log(self._add("Sub", self._constant("one", 1), certain, to="against"), "log_against")
        in_favour = self._log(certain, "log_in_favour")
        self._add("Sub", in_favour, against, to="logit")

    def finish(self, *, independent: bool) -> None:
        """Add the probabilities and their logarithms, and declare the three outputs."""
        logits = self.value
        if independent:
            self._node("Sigmoid", [logits], PROBABILITIES)
            self._log_of_sigmoid(logits)
        else:
            self._node("Softmax", [logits], PROBABILITIES, axis=1)
            self._node("LogSoftmax", [logits], LOG_PROBABILITIES, axis=1)
        self.value = logits
        self.hidden.discard(logits)
        names = (logits, PROBABILITIES, LOG_PROBABILITIES)
        infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
        replace(self.model.graph.output, infos)

    def _log_of_sigmoid(self, logits: str) -> None:
        """Log P of each class by the log softmax of (z/2, -z/2), which is exact where P is nearly 1, too."""
        place = self._add("Unsqueeze", logits, self._constant("last", [2], np.int64), to="place")
        pairs = self._add("Mul", place, self._constant("pair", [[[0.5, -0.5]]]), to="pairs")
        logs = self._add("LogSoftmax", pairs, to="logs", attributes={"axis": 2})
        self.hidden.add(logs)
        self._node("Gather", [logs, self._constant("first", 0, np.int64)], LOG_PROBABILITIES, axis=2)

    def _log(self, probabilities: str, to: str) -> str:
        clipped = self._add("Clip", probabilities, self._constant("least", LEAST), to=f"{to}.clipped")
        return self._add("Log", clipped, to=to)

    def _add(self, kind: str, *inputs: str, to: str, attributes: Mapping[str, Any] | None = None) -> str:
        """Append a node, whose output becomes the value; the value before becomes a step that is no layer."""
        if self.value != self._stem:
            self.hidden.add(self.value)
        self.value = f"{self._stem}.{to}"
        self._node(kind, inputs, self.value, **(attributes or {}))
        return self.value

    def _node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        self.model.graph.node.append(helper.make_node(kind, inputs, [output], name=output, **attributes))

    def _constant(self, name: str, value: object, dtype: type[np.generic] = np.float32) -> str:
        """The name of a constant of the scores, which is added once."""
        name, constants = f"{self._stem}.{name}", self.model.graph.initializer
        if all(tensor.name != name for tensor in constants):
            constants.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name
