"""Frees the batch where a graph holds it: Reshapes and Concats that are proven to carry it, and nothing else.

All sizes are followed from the input to the end twice, for the declared batch and for seven times as many
images. What differs between the two carries the batch, and along which axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from convlens_models.graphs import surgery
from convlens_models.graphs.fold import SizesOf

MANY: Final = 7
"""A factor that sizes of networks seldom have by chance."""

Shape = Sequence[int]


def free_batch(model: onnx.ModelProto, source: str, batch: int, size: int) -> list[str]:
    """Let nodes of `model`, in place, keep the batch that comes in; the names of those that held it.

    Args:
        source: its input (N, 3, size, size), of which the file says that N is `batch`.
    """
    one, many = (_sizes(model, source, images, size) for images in (batch, MANY * batch))
    nodes, freed = list[onnx.NodeProto](), list[str]()
    for node in model.graph.node:
        one.visit(node)
        rule = FREED.get(node.op_type)
        fresh = rule(model.graph, node, one, many) if rule else []
        freed += [node.name or node.output[0]] if fresh else []
        for each in fresh or [node]:
            many.visit(each)
            nodes.append(each)
    surgery.replace(model.graph.node, nodes)
    return freed


def _sizes(model: onnx.ModelProto, source: str, batch: int, size: int) -> SizesOf:
    known = onnx.ModelProto()
    known.CopyFrom(model)
    image = next(info for info in known.graph.input if info.name == source)
    kind = image.type.tensor_type
    sizes = [batch, *(dim.dim_value or size for dim in kind.shape.dim[1:])]
    image.CopyFrom(helper.make_tensor_value_info(source, kind.elem_type, sizes))
    return SizesOf(known)


def _reshape(
    graph: onnx.GraphProto, node: onnx.NodeProto, one: SizesOf, many: SizesOf
) -> list[onnx.NodeProto]:
    """A Reshape to constant sizes, of which one is the batch: 0 keeps it along its axis, else -1 finds it."""
    before, more = one.shape(node.input[0]), many.shape(node.input[0])
    stated, stated_of_one = many.value(node.input[1]), one.value(node.input[1])
    constant = node.input[1] in one.tensors or node.input[1] in one.constants
    if not before or not more or stated is None or stated_of_one is None or not constant or before == more:
        return []
    if (place := _place(before, more, _sizes_after(before, stated.tolist(), node))) is None:
        return []
    axis, to = place
    sizes = stated.tolist()
    stays = to == axis and sizes[to] == before[axis]
    if sizes[to] in (-1, 0) or not np.array_equal(stated, stated_of_one):
        return []  # Found out at each run already.
    if stays:
        sizes[to] = 0
    elif -1 not in sizes:
        sizes[to] = -1
    else:
        return []
    name = f"{node.output[0]}.shape"
    tensor = numpy_helper.from_array(np.array(sizes, np.int64), name)
    graph.initializer.append(tensor)
    one.tensors[name] = many.tensors[name] = tensor
    fresh = helper.make_node("Reshape", [node.input[0], name], node.output, name=node.name)
    fresh.metadata_props.extend(node.metadata_props)
    return [fresh]


def _sizes_after(before: Shape, stated: Sequence[int], node: onnx.NodeProto) -> list[int]:
    """What a Reshape makes of `before`; a 0 that means none makes what no Reshape can."""
    keeps = not any(attribute.name == "allowzero" and attribute.i for attribute in node.attribute)
    sizes = [before[i] if size == 0 and keeps else int(size) for i, size in enumerate(stated)]
    rest = math.prod(size for size in sizes if size != -1)
    return [math.prod(before) // max(1, rest) if size == -1 else size for size in sizes]


def _place(before: Shape, more: Shape, after: Shape) -> tuple[int, int] | None:
    """Axis of the batch before and after a Reshape; None where it is not the slower part of just one axis."""
    axes = [axis for axis, pair in enumerate(zip(before, more, strict=True)) if pair[0] != pair[1]]
    if len(axes) != 1 or before[axes[0]] * MANY != more[axes[0]] or math.prod(before) != math.prod(after):
        return None
    slower = math.prod(before[: axes[0]])
    places = (axis for axis in range(len(after)) if math.prod(after[:axis]) == slower)
    return next(((axes[0], axis) for axis in places), None)


def _concat(
    graph: onnx.GraphProto, node: onnx.NodeProto, one: SizesOf, many: SizesOf
) -> list[onnx.NodeProto]:
    """A Concat of constants, as of a token for the class, to what each image has: once for each image."""
    axis = next(attribute.i for attribute in node.attribute if attribute.name == "axis")
    shapes = [(one.shape(name), many.shape(name)) for name in node.input]
    if any(not before or not more for before, more in shapes):
        return []
    rank = len(shapes[0][0])
    images = [i for i, (before, more) in enumerate(shapes) if before[0] != more[0]]
    fixed = [i for i in range(len(shapes)) if i not in images and shapes[i][0][0] == 1]
    if not images or axis % rank == 0 or len(images) + len(fixed) < len(shapes) or not fixed:
        return []
    stem = node.output[0]
    ones = f"{stem}.ones"
    graph.initializer.append(numpy_helper.from_array(np.ones(rank - 1, np.int64), ones))
    one.tensors[ones] = many.tensors[ones] = graph.initializer[-1]
    count, shape = f"{stem}.batch", f"{stem}.repeated"
    fresh = [
        helper.make_node("Shape", [node.input[images[0]]], [count], name=count, start=0, end=1),
        helper.make_node("Concat", [count, ones], [shape], name=shape, axis=0),
    ]
    inputs = list(node.input)
    for i in fixed:
        inputs[i] = f"{stem}.each{i}"
        fresh.append(helper.make_node("Expand", [node.input[i], shape], [inputs[i]], name=inputs[i]))
    return [*fresh, helper.make_node("Concat", inputs, node.output, name=node.name, axis=axis)]


Rule = Callable[[onnx.GraphProto, onnx.NodeProto, SizesOf, SizesOf], list[onnx.NodeProto]]
FREED: Final[dict[str, Rule]] = {"Reshape": _reshape, "Concat": _concat}
"""What takes the place of a node that holds the batch, by its operator; nothing where it does not."""
