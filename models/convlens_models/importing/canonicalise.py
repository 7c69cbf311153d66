"""A user's ONNX classifier brought to the form of our own graphs.

One input "image", RGB in [0, 1], any batch; the normalisation in the graph; logits, their probabilities and
the logarithms of these as outputs; no local functions; an opset that can be differentiated.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import onnx
from onnx import TensorProto, checker, helper, inliner

from convlens.errors import InvalidArgument
from convlens_models import tensors
from convlens_models.graphs import autodiff, surgery
from convlens_models.graphs.fold import fold
from convlens_models.graphs.functions import written_out
from convlens_models.graphs.normalisation import normalisation
from convlens_models.graphs.surgery import replace
from convlens_models.importing import constants, inputs, notes, precision, quantised, upgrade
from convlens_models.importing.batch import free_batch
from convlens_models.importing.head import Head, choose_output, settle
from convlens_models.importing.inputs import Layout
from convlens_models.importing.layout import channels_first
from convlens_models.importing.names import by_modules
from convlens_models.importing.stored import move_weights
from convlens_models.manifest import INPUT, LOG_PROBABILITIES, PROBABILITIES, OutputKind, Rgb
from convlens_models.vjp.marks import MARKED

STEPS: Final = (upgrade.upgrade, constants.fold, quantised.to_floats, precision.single)
"""What brings every file to one form, in this order: each changes a model in place and tells of it."""
RESERVED: Final = (INPUT, PROBABILITIES, LOG_PROBABILITIES, autodiff.COTANGENT, autodiff.IMAGE_GRADIENT)
LONGEST_NAME: Final = 1024
MOST_AXES: Final = 8
MOST_NODES: Final = 100_000
MOST_NESTED: Final = 100
INNER: Final = ".inner"
"""Ends the names of values that had one of the reserved names."""


def read(path: Path, layout: Layout | None = None, white: float = 1.0) -> onnx.ModelProto:
    """The model of a file, weights included, as one of float32 that takes an image (N, 3, H, W).

    Args:
        layout: of its input; None: as its shape says.
        white: the value of alpha, where the input has a fourth channel.

    Raises:
        InvalidArgument: unreadable, not valid ONNX, or of an opset or input that cannot be brought there.
    """
    model = load(path)
    marks = {*MARKED, surgery.HIDDEN}
    for node in model.graph.node:
        if node.doc_string in marks:
            node.ClearField("doc_string")
    try:
        taken = inputs.form(model, layout)
        told = [note for step in STEPS for note in step(model)]
        told += inputs.adapt(model, taken, white)
        if taken.last:
            channels_first(model)
        model = written_out(model)
        notes.put(model, told)
    except onnx.shape_inference.InferenceError as error:
        raise _invalid(path, error) from error
    return model


def load(path: Path, weights: bool = True) -> onnx.ModelProto:
    """The model of a file as it is, local functions written out.

    Args:
        weights: whether to read those that lie in files of their own, too.

    Raises:
        InvalidArgument: unreadable, not valid ONNX, or with weights in files that are not there.
    """
    try:
        model = onnx.load(path, load_external_data=False)
        _check_bounds(model)
        _check_external(model, path)
        checker.check_model(path)
        model = inliner.inline_local_functions(model) if model.functions else model
        if weights:
            onnx.load_external_data_for_model(model, str(path.parent))
        return model
    except InvalidArgument:
        raise
    except Exception as error:  # onnx raises protobuf's, its C++ and Python's own errors.
        raise _invalid(path, error) from error


def _invalid(path: Path, error: Exception) -> InvalidArgument:
    first = str(error).strip().split("\n")[0]
    return InvalidArgument.of("file", str(path), f"a valid ONNX model ({first})")


def _check_external(model: onnx.ModelProto, path: Path) -> None:
    """Raise InvalidArgument unless the weights that lie in other files lie beside the model, whole."""
    folder = path.resolve().parent
    for tensor in tensors.tensors_of(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        where = {item.key: item.value for item in tensor.external_data}
        file = (folder / where.get("location", "")).resolve()
        if not file.is_relative_to(folder) or not file.is_file():
            allowed = "a file in the folder of the model, where it was exported to"
            raise InvalidArgument.of(f"model.{tensor.name}", where.get("location", ""), allowed)
        span, size = [where.get(key, "0") for key in ("offset", "length")], file.stat().st_size
        if not all(map(str.isdecimal, span)) or sum(map(int, span)) > size:
            shown = f"{span[1]} bytes from {span[0]} on of {file.name}"
            raise InvalidArgument.of(f"model.{tensor.name}", shown, f"within its {size} bytes")


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
        head: what its output means, and where the scores are.
        values: the names of its values, in their order.
        file_output: the output of the file that was taken.
        freed: the nodes that held the batch.
        parameters: how many numbers the weights are.
        former: what its values are called in the file, where they were called otherwise.
    """

    head: Head
    values: list[str]
    file_output: str
    freed: list[str]
    parameters: int
    former: dict[str, str]


def adopt(
    model: onnx.ModelProto,
    mean: Rgb,
    std: Rgb,
    bgr: bool,
    *,
    folder: Path,
    size: int,
    output: str | None = None,
    output_kind: OutputKind | None = None,
) -> Adopted:
    """Bring `model` to our form, in place, for square images of `size` pixels and others.

    Args:
        folder: gets the weights, before the graph is run: of more than 2 GB it cannot be run otherwise.
        size: side of the pictures that tell what the output means, in pixels.
        output, output_kind: see `head.choose_output` and `head.settle`.

    Raises:
        InvalidArgument: more than one input, another input than float32 (N, 3, H, W), or an output that is
            not told, or of which graph and values do not tell what it means.
    """
    source = input_name(model)
    output = file_output = choose_output(model, output)
    batch = _open_input(model, source)
    graph = fold(model).graph
    freed = free_batch(model, source, batch, size) if batch else []
    names = {name: name for name in RESERVED} | by_modules(graph)
    names = {old: f"{new}{INNER}" if new in RESERVED else new for old, new in names.items()}
    _rename(graph, names)
    source, output = (names.get(name, name) for name in (source, output))
    nodes, constants = normalisation(mean, std, output=source, bgr=bgr)
    needed = surgery.ancestors(graph, [output])
    replace(graph.node, [*nodes, *(node for node in graph.node if needed.intersection(node.output))])
    graph.initializer.extend(constants)
    replace(graph.output, [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)])
    del graph.value_info[:]
    open_size(model, None)
    parameters = move_weights(model, folder)
    head = settle(model, output, size, output_kind, folder=folder)
    unnamed = {*MARKED, surgery.HIDDEN}
    made = (node.output[0] for node in graph.node[len(nodes) :] if node.doc_string not in unnamed)
    named = [name for name in made if name not in head.hidden]
    former = {new: old for old, new in names.items()}
    return Adopted(head, named, file_output, freed, parameters, former)


def _open_input(model: onnx.ModelProto, source: str) -> int:
    """Leave batch, height and width, and all other shapes, open; the batch that was declared, or 0."""
    model.CopyFrom(surgery.opened(model, source))
    image = next(info for info in model.graph.input if info.name == source)
    first = image.type.tensor_type.shape.dim[0]
    declared = int(first.dim_value)
    first.dim_param = "N"
    return declared


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
