"""Calls the values of a graph as the modules that make them, where the exporter has written down which."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Final, NamedTuple

import onnx

SCOPES: Final = "pkg.torch.onnx.name_scopes"
"""Under which PyTorch's newer exporter keeps the modules around a node, the outermost first."""
COUNT: Final = re.compile(r"_\d+$")


class Place(NamedTuple):
    """Where a value is made: the path of the innermost module, "" for the network, and the operation."""

    value: str
    path: str
    operation: str


def by_modules(graph: onnx.GraphProto) -> dict[str, str]:
    """New names for the values that modules are known to make, by their present ones.

    The last value of a module without others in it has the module's path, such as "layer4.1.relu"; all
    others the path of their module and their operation, such as "layer4.1.add". A name that is taken gets a
    number.
    """
    found = [place for node in graph.node if (place := _place(node))]
    outer = {path.rpartition(".")[0] for path in _outer({place.path for place in found})}
    taken = {tensor.name for tensor in graph.initializer} | {info.name for info in graph.input}
    taken |= {value for node in graph.node for value in node.output} - {place.value for place in found}
    names = dict[str, str]()
    for path, group in groupby(found, lambda place: place.path):
        places = list(group)
        for place in places:
            last = place is places[-1] and path and path not in outer
            name = path if last else f"{path}.{place.operation}".strip(".")
            names[place.value] = _free(name, taken)
            taken.add(names[place.value])
    return names


def _outer(paths: Iterable[str]) -> set[str]:
    """All paths, and all beginnings of them."""
    return {".".join(path.split(".")[: end + 1]) for path in paths for end in range(path.count(".") + 1)}


def _free(name: str, taken: set[str]) -> str:
    numbered = (f"{name}_{number}" for number in range(1, len(taken) + 2))
    return name if name not in taken else next(other for other in numbered if other not in taken)


def _place(node: onnx.NodeProto) -> Place | None:
    """Where the node's first value is made; None where nobody has written it down."""
    scopes = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "")
    if scopes:
        return _newer(node, scopes)
    parts = node.name.split("/")
    if len(parts) < 2 or parts[0] or not node.output:
        return None
    return Place(node.output[0], _path(parts[1:-1]), COUNT.sub("", parts[-1]).lower())


def _newer(node: onnx.NodeProto, scopes: str) -> Place | None:
    try:
        listed = [str(scope) for scope in ast.literal_eval(scopes)]
    except (ValueError, SyntaxError, TypeError):
        return None
    if not listed or not node.output:
        return None
    *modules, operation = listed
    return Place(node.output[0], modules[-1] if modules else "", COUNT.sub("", operation))


def _path(parts: Sequence[str]) -> str:
    """The path of the older exporter's scopes, of which those of a Sequential repeat the name before."""
    path = list[str]()
    for part in parts:
        if path and part.startswith(f"{path[-1]}."):
            path[-1] = part
        else:
            path.append(part)
    return ".".join(path)
