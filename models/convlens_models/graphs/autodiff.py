"""Reverse-mode differentiation of ONNX graphs, in ONNX.

    gradient = differentiate(forward, "features.3", ReluRule.GUIDED, shape=(1, 224, 224))

The result takes "image" and "cotangent" (one number for each number of the layer's value) and gives the
layer's value under its own name, and "image_gradient" = d <cotangent, value> / d image, of the image's shape.
A class score is a one-hot cotangent at the logits; a neuron is a one-hot cotangent at its layer. With `wrt`
the gradient is that of an inner value instead of the image, as Grad-CAM needs it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import onnx
from onnx import TensorProto, helper

from convlens.errors import FailedPrecondition, InvalidArgument
from convlens_models.graphs import surgery
from convlens_models.graphs.surgery import cut, static
from convlens_models.manifest import INPUT
from convlens_models.vjp import operator_of
from convlens_models.vjp.forward import simplify
from convlens_models.vjp.gated import GATES, Gated, gated
from convlens_models.vjp.graph_builder import GraphBuilder, Node, ReluRule, not_differentiable
from convlens_models.vjp.layouts import SparseChannels, total
from convlens_models.vjp.rectifiers import positive_part

__all__ = ["COTANGENT", "IMAGE_GRADIENT", "ReluRule", "check", "differentiate", "gradient_name", "rules"]

COTANGENT: Final = "cotangent"
IMAGE_GRADIENT: Final = "image_gradient"
OPSETS: Final = range(16, 27)  # From 16 on ScatterElements can add.


def differentiate(
    forward: onnx.ModelProto,
    layer: str,
    rule: ReluRule | str = ReluRule.GRADIENT,
    shape: tuple[int | None, int, int] | None = None,
    wrt: str = INPUT,
) -> onnx.ModelProto:
    """The graph of the gradient of `layer`'s value with respect to the image, or to an inner value.

    Args:
        forward: has the one input "image" [N, 3, H, W]. Its initializers are taken over as they are, those in
            external files too: their bytes are not read.
        layer: a value of the graph.
        rule: what a ReLU sends back; of other rectifiers see `vjp.rectifiers`.
        shape: batch (None: any), height and width to fix, which makes a faster graph; None leaves all open.
        wrt: what to differentiate by. A value inside the graph becomes an output too, and its gradient is
            called `gradient_name(wrt)`.

    Raises:
        InvalidArgument: the layer does not exist or does not depend on `wrt`, or a node between the two
            has no rule; the message names it.
        FailedPrecondition: the rule changes nothing in this network: it has no rectifier.
    """
    _check_opset(forward)
    if rule != ReluRule.GRADIENT and rule not in rules(forward):
        raise _without_rectifier(forward, ReluRule(rule))
    values = [layer] if wrt == INPUT else [layer, wrt]
    part = cut(forward, values)
    source = wrt if wrt == INPUT else _tap(part.graph, _original(part.graph, wrt))
    part = _inferred(part, shape)
    simplify(part.graph)
    part = _inferred(cut(part, values), shape)
    builder = GraphBuilder(part.graph, ReluRule(rule))
    active = _active(builder, source)
    if layer not in active:
        raise InvalidArgument.of("layer", layer, f"a floating-point value that depends on the {wrt}")
    _refuse_missing_rules(builder, active)
    gradient = _backward(builder, layer, active, source)
    name = gradient_name(wrt)
    builder.nodes.append(helper.make_node("Identity", [gradient], [name], name=name))
    return _assemble(part, builder, layer, wrt)


def gradient_name(wrt: str) -> str:
    """The output of `differentiate` that is the gradient of this value."""
    return f"{wrt}_gradient"


def check(forward: onnx.ModelProto) -> None:
    """Raise InvalidArgument where a node that the image reaches has no rule; names all of them."""
    _check_opset(forward)
    builder = GraphBuilder(surgery.inferred(forward).graph, ReluRule.GRADIENT)
    _refuse_missing_rules(builder, _active(builder, INPUT))


def rules(forward: onnx.ModelProto) -> Sequence[ReluRule]:
    """The ReLU rules that mean something in a network: without a rectifier only the gradient."""
    builder = GraphBuilder(forward.graph, ReluRule.GRADIENT)
    active, units = _active(builder, INPUT), gated(builder)
    for proto in builder.graph.node:
        opened = operator_of(proto).opened
        rectifies = proto.output[0] in units or (opened and opened(builder, Node(proto)))
        if rectifies and proto.output[0] in active:
            return list(ReluRule)
    return [ReluRule.GRADIENT]


def _without_rectifier(forward: onnx.ModelProto, rule: ReluRule) -> FailedPrecondition:
    kinds = Counter(node.op_type for node in forward.graph.node if node.op_type in GATES | {"Sin", "Cos"})
    found = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "none at all"
    return FailedPrecondition(
        f"{rule} changes what rectifiers send back (ReLU, ReLU6, GELU, SiLU and their like), and this network"
        f" has none: its activations are {found}; ask for its gradient",
        field="rule",
        reason="NO_RECTIFIER",
    )


def _inferred(model: onnx.ModelProto, shape: tuple[int | None, int, int] | None) -> onnx.ModelProto:
    if shape:
        return static(model, shape)
    inferred: onnx.ModelProto = onnx.shape_inference.infer_shapes(model, data_prop=True)
    return inferred


def _original(graph: onnx.GraphProto, value: str) -> str:
    """What an Identity that no node uses renames to `value`, as the last ReLU of a block; else `value`."""
    maker = next(node for node in graph.node if value in node.output)
    made = {output for node in graph.node for output in node.output}
    is_name = maker.op_type == "Identity" and not any(value in node.input for node in graph.node)
    return maker.input[0] if is_name and maker.input[0] in made else value


def _tap(graph: onnx.GraphProto, value: str) -> str:
    """A copy of `value` that all its users take in its place; differentiating by it stops there.

    It also stands between a ReLU and a pool, whose rules together would already block what the ReLU blocks,
    and keeps a Concat in one piece.
    """
    tap = f"{value}/tap"
    for node in graph.node:
        surgery.replace(node.input, [tap if source == value else source for source in node.input])
    maker = next(i for i, node in enumerate(graph.node) if value in node.output)
    graph.node.insert(maker + 1, helper.make_node("Identity", [value], [tap], name=tap))
    return tap


def _backward(builder: GraphBuilder, layer: str, active: set[str], source: str) -> str:
    """Append the gradient nodes; the name of the gradient of `source`, zeros where nothing comes back."""
    units = {} if builder.rule is ReluRule.GRADIENT else gated(builder)
    gradients = {layer: [_start(builder, layer)]}
    _sweep(builder, builder.graph.node, gradients, active, units)
    gradient = total(builder, gradients.get(source, []))
    return builder.whole(gradient) if gradient else builder.op("Expand", 0.0, builder.sizes(source))


def _sweep(
    builder: GraphBuilder,
    nodes: Sequence[onnx.NodeProto],
    gradients: dict[str, list[str]],
    active: set[str],
    units: Mapping[str, Gated],
) -> None:
    """Go back through the nodes, and add what they send back to `gradients`, by value."""
    for proto in reversed(nodes):
        node = Node(proto, active)
        if not any(gradients.get(value) for value in node.outputs):
            continue
        cotangents = [total(builder, gradients.get(value, [])) for value in node.outputs]
        if (unit := units.get(node.outputs[0])) and unit.x in active:
            gradients.setdefault(unit.x, []).append(_through(builder, unit, cotangents[0], active))
            continue
        rule = operator_of(proto).gradient
        for index, gradient in enumerate(rule(builder, node, cotangents) if rule else ()):
            if gradient and node.wants(index):
                gradients.setdefault(node.inputs[index], []).append(gradient)


def _through(builder: GraphBuilder, unit: Gated, g: str, active: set[str]) -> str:
    """What a rectifier of several nodes sends back, by the definitions of `vjp.rectifiers`."""
    g = positive_part(builder, g)
    if builder.rule is ReluRule.DECONVNET:
        return builder.mul(g, unit.opened(builder))
    gradients = {unit.y: [g]}
    with builder.under(ReluRule.GRADIENT):
        _sweep(builder, unit.nodes, gradients, active, {})
    return positive_part(builder, total(builder, gradients[unit.x]))


def _start(builder: GraphBuilder, layer: str) -> str:
    """The cotangent; only its channels that count if it is that of class scores that a convolution made."""
    value = layer
    while (maker := builder.producer.get(value)) and operator_of(maker).by_channel:
        value = maker.input[0]
    sizes = builder.dims(layer) or ()
    is_scores = len(sizes) == 2 and isinstance(sizes[1], int) and layer != value
    if maker is None or maker.op_type != "Conv" or not is_scores:
        return COTANGENT
    return SparseChannels.of(builder, COTANGENT, layer).keep(builder)


def _active(builder: GraphBuilder, source: str) -> set[str]:
    """The floating-point values that depend on `source`."""
    active = {source}
    for node in builder.graph.node:
        if not active.isdisjoint(node.input):
            active.update(output for output in node.output if output and builder.is_float(output))
    return active


def _refuse_missing_rules(builder: GraphBuilder, active: set[str]) -> None:
    missing: dict[str, list[str]] = {}
    for node in builder.graph.node:
        on_path = not active.isdisjoint(node.input) and not active.isdisjoint(node.output)
        if on_path and operator_of(node).gradient is None:
            missing.setdefault(node.op_type, []).append(node.name or node.output[0])
    if missing:
        listed = "; ".join(f"{kind} ({', '.join(names)})" for kind, names in sorted(missing.items()))
        raise not_differentiable("the graph", f"no rule for {listed}")


def _check_opset(model: onnx.ModelProto) -> None:
    if (opset := surgery.opset(model)) not in OPSETS:
        raise InvalidArgument.of("model.opset", opset, f"from {OPSETS.start} to {OPSETS.stop - 1}")


def _assemble(part: onnx.ModelProto, builder: GraphBuilder, layer: str, wrt: str) -> onnx.ModelProto:
    """`part` with the builder's nodes, and its inputs and outputs."""
    image = next(value for value in part.graph.input if value.name == INPUT)

    def like(value: str, name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, builder.dims(value))

    inner = [] if wrt == INPUT else [like(wrt, wrt)]
    part.graph.CopyFrom(
        helper.make_graph(
            builder.nodes,
            f"gradient of {layer}",
            [image, like(layer, COTANGENT)],
            [like(layer, layer), *inner, like(wrt, gradient_name(wrt))],
            [*part.graph.initializer, *builder.initializers],
        )
    )
    return part
