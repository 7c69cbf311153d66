"""The operators of ONNX: the vector-Jacobian rule of each, and how far it sees.

An operator is a row in the table of the module that has its rule; this package joins the tables.
"""

from __future__ import annotations

from typing import Final

from onnx import NodeProto

from . import (
    activation,
    arithmetic,
    conv,
    einsum,
    extreme,
    linear,
    normalisation,
    pool,
    positions,
    reduce,
    resize,
    shape,
)
from .marks import MARKED
from .operator import Operator

FAMILIES: Final = (
    activation,
    arithmetic,
    conv,
    einsum,
    extreme,
    linear,
    normalisation,
    pool,
    positions,
    reduce,
    resize,
    shape,
)

OPERATORS: Final[dict[str, Operator]] = {
    kind: row for family in FAMILIES for kind, row in family.OPERATORS.items()
}
UNKNOWN: Final = Operator()


def operator_of(node: NodeProto) -> Operator:
    """The row of a node's operator; `UNKNOWN`, which sees everything, for what is not in the table."""
    if node.doc_string in MARKED:
        return MARKED[node.doc_string]
    return OPERATORS.get(node.op_type, UNKNOWN) if node.domain in ("", "ai.onnx") else UNKNOWN
