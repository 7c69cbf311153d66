"""Rectifiers of several nodes: x times a gate of x, as exporters write SiLU, GELU, Mish and hard swish."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from onnx import NodeProto

from .graph_builder import GraphBuilder, Node

SCALES: Final = {"Cast", "Div", "Dropout", "Identity", "Mul"}
GATES: Final = {"Clip", "Erf", "Exp", "HardSigmoid", "Sigmoid", "Softplus", "Softsign", "Tanh"}
OTHERS: Final = {"Add", "Log", "Max", "Min", "Neg", "Pow", "Reciprocal", "Sqrt", "Sub"}
"""All three work on each number alone, where what else they take is one number for all."""
LARGE: Final = 50.0
"""An input at which gates are open to the last bit, and no exponential overflows."""


class Gated(NamedTuple):
    """y = f(x), a function of each number alone, by these nodes in the order of execution."""

    x: str
    y: str
    nodes: list[NodeProto]

    def opened(self, t: GraphBuilder) -> str:
        """f(LARGE) / LARGE: the slope where the gate is open, by the nodes themselves, on one number."""
        values = {self.x: t.floats(LARGE)}
        for node in self.nodes:
            inputs = [values.get(value, value) for value in node.input]
            values[node.output[0]] = t.op(node.op_type, *inputs, **Node(node).attributes)
        return t.div(values[self.y], LARGE)


def gated(t: GraphBuilder) -> dict[str, Gated]:
    """All that a graph has, by their y."""
    sources: dict[str, str] = {}
    found = {}
    for place, node in enumerate(t.graph.node):
        values = list(dict.fromkeys(value for value in node.input if value and not _is_number(t, value)))
        source = _meeting(sources, values) if node.op_type in SCALES | GATES | OTHERS else ""
        if not source:
            continue
        sources[node.output[0]] = source
        linear = values[: 1 if node.op_type == "Div" else 2]
        if len(values) == 2 and node.op_type in SCALES and any(_scaled(t, source, one) for one in linear):
            nodes = _between(t, source, place)
            if not GATES.isdisjoint(part.op_type for part in nodes):
                found[node.output[0]] = Gated(source, node.output[0], nodes)
    return found


def _is_number(t: GraphBuilder, value: str) -> bool:
    """Whether `value` is one number for all; large weights are not looked at."""
    if any(size != 1 for size in t.dims(value) or ()):
        return False
    constant = t.constant_of(value)
    return constant is not None and constant.size == 1


def _meeting(sources: dict[str, str], values: list[str]) -> str:
    """The nearest value of which all of `values` are functions of each number alone; "" if there is none."""
    if len(values) == 1:
        return values[0]
    chains = [list(_chain(sources, value)) for value in values]
    if len(chains) != 2:
        return ""
    return next((value for value in chains[0] if value in chains[1]), "")


def _chain(sources: dict[str, str], value: str) -> Iterator[str]:
    yield value
    while value in sources:
        value = sources[value]
        yield value


def _scaled(t: GraphBuilder, source: str, value: str) -> bool:
    """Whether `value` is `source`, up to a factor."""
    while value != source:
        maker = t.producer[value]
        inputs = [one for one in maker.input if one and not _is_number(t, one)]
        if (
            maker.op_type not in SCALES
            or len(inputs) != 1
            or (maker.op_type == "Div" and inputs[0] != maker.input[0])
        ):
            return False
        value = inputs[0]
    return True


def _between(t: GraphBuilder, source: str, last: int) -> list[NodeProto]:
    """The nodes between `source` and the one at the place `last`, which is among them."""
    needed, nodes = set(t.graph.node[last].output), list[NodeProto]()
    for node in reversed(t.graph.node[: last + 1]):
        if source in node.output:
            break
        if needed.intersection(node.output):
            nodes.insert(0, node)
            needed.update(node.input)
    return nodes
