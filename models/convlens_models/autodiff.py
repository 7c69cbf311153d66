"""Reverse-mode differentiation of ONNX graphs, in ONNX.

    gradient = differentiate(forward, "features.3", ReluRule.GUIDED, shape=(1, 3, 224, 224))

The result takes "image" and "cotangent" (one number for each number of the layer's value) and gives the layer's
value under its own name, and "image_gradient" = d <cotangent, value> / d image, of the image's shape. A class score
is a one-hot cotangent at the logits; a neuron is a one-hot cotangent at its layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from convlens.errors import InvalidArgument
from onnx import TensorProto, helper

from .vjp import RULES, Node, ReluRule, Tape

IMAGE, COTANGENT, IMAGE_GRADIENT = "image", "cotangent", "image_gradient"
OPSETS = range(16, 27)  # 16: ScatterElements adds

Shape = Sequence[int | str | None]

__all__ = ["ReluRule", "check", "differentiate"]


def differentiate(
    forward: onnx.ModelProto,
    layer: str,
    rule: ReluRule | str = ReluRule.GRADIENT,
    *,
    shape: Shape | None = None,
) -> onnx.ModelProto:
    """The graph of the gradient of `layer`'s value with respect to the image.

    Initializers are taken over as they are, external data too; their bytes are not read. `shape` fixes the image's
    sizes [N, 3, H, W] (a name or None leaves one open), which makes the graph faster. Raises InvalidArgument where
    the layer does not exist, does not depend on the image, or a node between the two has no rule.
    """
    opset = _opset(forward)
    graph = _inferred(forward, layer, shape)
    tape = Tape(graph, opset, ReluRule(rule))
    active = _active(tape)
    if layer not in active:
        raise InvalidArgument.of("layer", layer, "a floating-point value that depends on the image")
    _refuse_missing_rules(tape.nodes, active)
    gradient = _backward(tape, layer, active)
    tape.nodes.append(helper.make_node("Identity", [gradient], [IMAGE_GRADIENT], name=IMAGE_GRADIENT))
    return _assemble(forward, tape, layer)


def check(forward: onnx.ModelProto) -> None:
    """Raise InvalidArgument if any node that the image reaches has no rule; names each operator and node."""
    _opset(forward)
    inferred = _infer_shapes(forward.graph, list(forward.graph.node), forward)
    tape = Tape(inferred, 0, ReluRule.GRADIENT)
    _refuse_missing_rules(tape.nodes, _active(tape))


def _backward(tape: Tape, layer: str, active: set[str]) -> str:
    """Append the gradient nodes; the name of the image's gradient."""
    gradients: dict[str, list[str]] = {layer: [COTANGENT]}
    for proto in list(reversed(tape.nodes)):
        node = Node(proto, active)
        if active.isdisjoint(node.outputs) or not any(gradients.get(value) for value in node.outputs):
            continue
        cotangents = [_total(tape, gradients.get(value, [])) for value in node.outputs]
        for value, gradient in zip(node.inputs, RULES[node.kind](tape, node, cotangents), strict=False):
            if gradient and value in active:
                gradients.setdefault(value, []).append(gradient)
    return _total(tape, gradients[IMAGE])


def _total(tape: Tape, parts: list[str]) -> str:
    """The sum of what the consumers of a value sent back; kept, so that it is summed once."""
    if len(parts) > 1:
        parts[:] = [tape.op("Sum", *parts)]
    return parts[0] if parts else ""


def _active(tape: Tape) -> set[str]:
    """The floating-point values that depend on the image."""
    active = {IMAGE}
    for node in tape.nodes:
        if not active.isdisjoint(node.input) and node.op_type != "Shape":
            active.update(output for output in node.output if output and tape.is_float(output))
    return active


def _refuse_missing_rules(nodes: Sequence[onnx.NodeProto], active: set[str]) -> None:
    missing: dict[str, list[str]] = {}
    for node in nodes:
        known = node.op_type in RULES and node.domain in ("", "ai.onnx")
        if not known and not active.isdisjoint(node.input) and not active.isdisjoint(node.output):
            missing.setdefault(node.op_type, []).append(node.name or node.output[0])
    if missing:
        listed = "; ".join(f"{kind} ({', '.join(names)})" for kind, names in sorted(missing.items()))
        raise InvalidArgument(
            f"cannot differentiate the graph, operators without a rule: {listed}",
            field="model",
            reason="NOT_DIFFERENTIABLE",
        )


def _opset(model: onnx.ModelProto) -> int:
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset not in OPSETS:
        raise InvalidArgument.of("model.opset", opset, f"{OPSETS.start} to {OPSETS.stop - 1}")
    return opset


def _inferred(forward: onnx.ModelProto, layer: str, shape: Shape | None) -> onnx.GraphProto:
    """The forward graph cut at the layer, with the shapes of its values."""
    if layer not in {output for node in forward.graph.node for output in node.output}:
        raise InvalidArgument.of("layer", layer, "a value of the model's graph")
    graph = onnx.GraphProto(name=forward.graph.name)
    graph.node.extend(_ancestors(forward.graph.node, layer))
    used = {value for node in graph.node for value in node.input}
    graph.initializer.extend(tensor for tensor in forward.graph.initializer if tensor.name in used)
    graph.input.extend(value for value in forward.graph.input if value.name == IMAGE)
    if shape is None:
        graph.value_info.extend([*forward.graph.value_info, *forward.graph.output])
    else:
        kind = graph.input[0].type.tensor_type.elem_type
        graph.input[0].CopyFrom(helper.make_tensor_value_info(IMAGE, kind, shape))
    return _infer_shapes(graph, list(graph.node), forward)


def _ancestors(nodes: Sequence[onnx.NodeProto], layer: str) -> list[onnx.NodeProto]:
    needed, kept = {layer}, []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.output):
            needed.update(_reads(node))
            kept.append(node)
    return kept[::-1]


def _reads(node: onnx.NodeProto) -> set[str]:
    """The values a node reads, those that its subgraphs capture included."""
    inner = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    return {*node.input, *(value for graph in inner for nested in graph.node for value in _reads(nested))}


SMALL = 64  # numbers; shapes and axes are smaller, kernels larger


def _infer_shapes(
    graph: onnx.GraphProto, nodes: list[onnx.NodeProto], forward: onnx.ModelProto
) -> onnx.GraphProto:
    """`graph` with value_info for what could be inferred, weights untouched."""
    light = onnx.GraphProto(name="shapes", node=nodes, input=graph.input, value_info=graph.value_info)
    for tensor in graph.initializer:
        external = tensor.data_location == TensorProto.EXTERNAL
        if external or helper.tensor_dtype_to_np_dtype is None or _count(tensor) > SMALL:
            light.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        else:
            light.initializer.append(tensor)
    model = onnx.ModelProto(graph=light, ir_version=forward.ir_version, opset_import=forward.opset_import)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    result = onnx.GraphProto()
    result.CopyFrom(graph)
    del result.value_info[:]
    result.value_info.extend(inferred.value_info)
    return result


def _count(tensor: TensorProto) -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return count


def _assemble(forward: onnx.ModelProto, tape: Tape, layer: str) -> onnx.ModelProto:
    image = next(value for value in tape.graph.input if value.name == IMAGE)
    dims = tape.dims(layer)
    value = helper.make_tensor_value_info(layer, TensorProto.FLOAT, dims)
    cotangent = helper.make_tensor_value_info(COTANGENT, TensorProto.FLOAT, dims)
    gradient = onnx.ValueInfoProto()
    gradient.CopyFrom(image)
    gradient.name = IMAGE_GRADIENT
    graph = helper.make_graph(
        tape.nodes,
        f"gradient of {layer}",
        [image, cotangent],
        [value, gradient],
        [*tape.graph.initializer, *tape.initializers],
    )
    return helper.make_model(
        graph,
        opset_imports=list(forward.opset_import),
        ir_version=forward.ir_version,
        producer_name="convlens",
    )
