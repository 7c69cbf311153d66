"""The rule of Einsum: the gradient of an operand is the Einsum of g and the other operands."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence
from typing import Final

from .graph_builder import GraphBuilder, Node
from .operator import Operator


def einsum(t: GraphBuilder, node: Node, cotangents: Sequence[str]) -> list[str]:
    """Of "ab,bc->ac": "ac,bc->ab" of g and b, and "ac,ab->bc" of g and a.

    An axis that only this operand has was summed: what goes back is the same all along it.
    """
    terms, result = _equation(t, node)
    gradients = [""] * len(terms)
    for i in filter(node.wants, range(len(terms))):
        labels, others = terms[i], [j for j in range(len(terms)) if j != i]
        met = set(result).union(*(terms[j] for j in others))
        kept = "".join(label for label in labels if label in met)
        equation = ",".join([result, *(terms[j] for j in others)]) + f"->{kept}"
        g = t.op("Einsum", cotangents[0], *(node.inputs[j] for j in others), equation=equation)
        if alone := [place for place, label in enumerate(labels) if label not in met]:
            g = t.op("Expand", t.op("Unsqueeze", g, t.ints(alone)), t.sizes(node.inputs[i]))
        gradients[i] = g
    return gradients


def _equation(t: GraphBuilder, node: Node) -> tuple[list[str], str]:
    """The labels of the operands and of the result, "..." written out."""
    equation = node.get("equation").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    free = [label for label in string.ascii_letters if label not in equation]
    many = [
        len(t.shape(value)) - len(term) + 3 if "..." in term else 0
        for term, value in zip(terms, node.inputs, strict=True)
    ]
    rest = free[: max(many)]
    written = [
        term.replace("...", "".join(rest[len(rest) - n :])) for term, n in zip(terms, many, strict=True)
    ]
    once = sorted(
        label for label, count in Counter(left.replace(".", "")).items() if count == 1 and label != ","
    )
    result = right.replace("...", "".join(rest)) if arrow else "".join([*rest, *once])
    _refuse_shared_axes(t, node, written)
    return written, result


def _refuse_shared_axes(t: GraphBuilder, node: Node, terms: list[str]) -> None:
    sizes: dict[str, object] = {}
    for term, value in zip(terms, node.inputs, strict=True):
        if len(set(term)) < len(term):
            raise node.refuse("a label that stands twice in a term has no rule")
        for label, size in zip(term, t.shape(value), strict=True):
            if 1 in (known := {size, sizes.setdefault(label, size)}) and len(known) > 1:
                raise node.refuse("operands that are broadcast have no rule")


OPERATORS: Final = {"Einsum": Operator(einsum)}
