"""A user's ONNX classifier brought to the form of our own graphs.

One input "image", RGB in [0, 1], any batch; the normalisation in the graph; logits, their softmax and their
log softmax as outputs; no local functions; an opset that can be differentiated.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import onnx
from onnx import TensorProto, checker, helper, inliner, version_converter

from convlens.errors import InvalidArgument
from convlens_models.graphs import autodiff, surgery
from convlens_models.graphs.fold import fold
from convlens_models.graphs.normalisation import normalisation
from convlens_models.graphs.surgery import replace
from convlens_models.importing.batch import free_batch
from convlens_models.importing.names import by_modules
from convlens_models.manifest import INPUT, LOG_PROBABILITIES, PROBABILITIES, Rgb

OPSET: Final = 18
RESERVED: Final = (INPUT, PROBABILITIES, LOG_PROBABILITIES, autodiff.COTANGENT, autodiff.IMAGE_GRADIENT)
LONGEST_NAME: Final = 1024
MOST_AXES: Final = 8
MOST_NODES: Final = 100_000
MOST_NESTED: Final = 100
INNER: Final = ".inner"
"""Ends the names of values that had one of the reserved names."""
SOFTMAX: Final = ("Softmax", "LogSoftmax", "Identity")
HEADS: Final = {"Softmax": PROBABILITIES, "LogSoftmax": LOG_PROBABILITIES}


def read(path: Path) -> onnx.ModelProto:
    """The model of a file, weights included.

    Raises:
        InvalidArgument: unreadable, not valid ONNX, or of an opset that cannot be raised to a supported one.
    """
    try:
        model = onnx.load(path)
        _check_bounds(model)
        checker.check_model(model)
        model = inliner.inline_local_functions(model) if model.functions else model
        opset = surgery.opset(model)
        if opset < autodiff.OPSETS.start:
            model = version_converter.convert_version(model, OPSET)
    except InvalidArgument:
        raise
    except Exception as error:  # onnx raises protobuf's, its C++ and Python's own errors.
        first = str(error).strip().split("\n")[0]
        raise InvalidArgument.of("file", str(path), f"a valid ONNX model ({first})") from error
    if opset not in autodiff.OPSETS and opset >= autodiff.OPSETS.start:
        allowed = f"at most {autodiff.OPSETS.stop - 1}"
        raise InvalidArgument.of("model.opset", opset, allowed)
    return model


def _check_bounds(model: onnx.ModelProto) -> None:
    """Raise InvalidArgument for what no network has, and takes memory and time without bound."""
    for info in (*model.graph.input, *model.graph.output):
        if (axes := len(info.type.tensor_type.shape.dim)) > MOST_AXES:
            raise InvalidArgument.of(
                f"model.{info.name[:LONGEST_NAME]}", f"{axes} axes", f"at most {MOST_AXES}"
            )
    lists = (model.graph.node, *(function.node for function in model.functions))
    names = (name for nodes in lists for node in nodes for name in (node.name, *node.input, *node.output))
    if any(len(name) > LONGEST_NAME for name in names):
        raise InvalidArgument.of("model", "longer names", f"names of at most {LONGEST_NAME} bytes")
    if (nodes := _inlined(model)) > MOST_NODES:
        shown = f"{nodes:.3g} nodes, once its functions are written out"
        raise InvalidArgument.of("model", shown, f"at most {MOST_NODES}")


def _inlined(model: onnx.ModelProto) -> int:
    """The nodes of the graph with those of its local functions, which may call each other, written out."""
    bodies = {(function.domain, function.name): function.node for function in model.functions}
    counts: dict[tuple[str, str], int] = {}

    def count(nodes: Iterable[onnx.NodeProto], outer: tuple[tuple[str, str], ...] = ()) -> int:
        total = 0
        for node in nodes:
            name = (node.domain, node.op_type)
            if name in outer or len(outer) > MOST_NESTED:
                shown = f"{node.op_type} within itself or too many others"
                raise InvalidArgument.of("model.functions", shown, f"nested at most {MOST_NESTED} times")
            if name in bodies and name not in counts:
                counts[name] = count(bodies[name], (*outer, name))
            total += counts.get(name, 1)
        return total

    return count(model.graph.node)


class Adopted(NamedTuple):
    """What became of a model.

    Attributes:
        output: the name of the logits.
        values: the names of its values, in their order.
        file_output: the value that is to equal the output of the file.
        freed: the nodes that held the batch.
        former: what its values are called in the file, where they were called otherwise.
    """

    output: str
    values: list[str]
    file_output: str
    freed: list[str]
    former: dict[str, str]


def adopt(model: onnx.ModelProto, mean: Rgb, std: Rgb, bgr: bool, size: int) -> Adopted:
    """Bring `model` to our form, in place, for square images of `size` pixels and others.

    Raises:
        InvalidArgument: more than one input or output, or an input other than float32 (N, 3, H, W).
    """
    source = input_name(model)
    output = _only([info.name for info in model.graph.output], "outputs")
    batch = _open_input(model, source)
    graph = fold(model).graph
    freed = free_batch(model, source, batch, size) if batch else []
    names = {name: name for name in RESERVED} | by_modules(graph)
    names = {old: f"{new}{INNER}" if new in RESERVED else new for old, new in names.items()}
    _rename(graph, names)
    source, output = (names.get(name, name) for name in (source, output))
    logits, same = _before_softmax(graph, output)
    nodes, constants = normalisation(mean, std, output=source, bgr=bgr)
    needed = surgery.ancestors(graph, [logits])
    replace(graph.node, [*nodes, *(node for node in graph.node if needed.intersection(node.output))])
    graph.initializer.extend(constants)
    del graph.value_info[:]
    open_size(model, None)
    logits = _add_heads(model, logits, size)
    values = [node.output[0] for node in graph.node[len(nodes) :]]
    former = {new: old for old, new in names.items()}
    return Adopted(logits, values, same or logits, freed, former)


def _open_input(model: onnx.ModelProto, source: str) -> int:
    """Leave batch, height and width, and all other shapes, open; the batch that was declared, or 0."""
    model.CopyFrom(surgery.opened(model, source))
    image = next(info for info in model.graph.input if info.name == source)
    first = image.type.tensor_type.shape.dim[0]
    declared = int(first.dim_value)
    first.dim_param = "N"
    return declared


def _add_heads(model: onnx.ModelProto, logits: str, size: int) -> str:
    """Append softmax and log softmax, and declare the outputs; scores as maps of one pixel are flattened."""
    graph = model.graph
    replace(graph.output, [helper.make_tensor_value_info(logits, TensorProto.FLOAT, None)])
    inferred = surgery.static(model, (None, size, size), strict=False).graph.output[0].type.tensor_type.shape
    if [dim.dim_value for dim in inferred.dim][2:] == [1, 1]:
        flat = f"{logits}.flat"
        graph.node.append(helper.make_node("Flatten", [logits], [flat], name=flat))
        logits = flat
    for kind, name in (("Softmax", PROBABILITIES), ("LogSoftmax", LOG_PROBABILITIES)):
        graph.node.append(helper.make_node(kind, [logits], [name], name=name, axis=1))
    outputs = (logits, PROBABILITIES, LOG_PROBABILITIES)
    replace(graph.output, [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs])
    return logits


def declared_size(model: onnx.ModelProto) -> tuple[int, int]:
    """Height and width that the graph's input declares, 0 where it leaves them open.

    Raises:
        InvalidArgument: the input is not float32 (N, 3, H, W).
    """
    name = input_name(model)
    kind = next(info for info in model.graph.input if info.name == name).type.tensor_type
    dims = [dim.dim_value for dim in kind.shape.dim]
    if kind.elem_type != TensorProto.FLOAT or len(dims) != 4 or dims[1] not in (0, 3):
        shown = f"{TensorProto.DataType.Name(kind.elem_type)} {[dim or '?' for dim in dims]}"
        raise InvalidArgument.of(f"model.inputs.{name}", shown, "FLOAT (N, 3, H, W)")
    return dims[2], dims[3]


def open_size(model: onnx.ModelProto, size: int | None) -> None:
    """Declare the input "image" (N, 3, H, W), with H and W of `size`; None: any."""
    sides = ("H", "W") if size is None else (size, size)
    replace(model.graph.input, [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ("N", 3, *sides))])


def input_name(model: onnx.ModelProto) -> str:
    """The name of the model's one input. Raises InvalidArgument where there are several, or none."""
    return _only(_inputs(model.graph), "inputs")


def _inputs(graph: onnx.GraphProto) -> list[str]:
    constants = {tensor.name for tensor in graph.initializer}
    return [info.name for info in graph.input if info.name not in constants]


def _only(names: list[str], what: str) -> str:
    if len(names) != 1:
        raise InvalidArgument.of(f"model.{what}", names, "one value: an image in, the classes' scores out")
    return names[0]


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    for node in graph.node:
        for values in (node.input, node.output):
            replace(values, [names.get(value, value) for value in values])
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)


def _before_softmax(graph: onnx.GraphProto, value: str) -> tuple[str, str]:
    """What a softmax at the end is made of, and which of our values is to equal it; "" for the logits."""
    same = ""
    makers = {output: node for node in graph.node for output in node.output}
    while value in makers and makers[value].op_type in SOFTMAX:
        same = same or HEADS.get(makers[value].op_type, "")
        value = makers[value].input[0]
    return value, same
