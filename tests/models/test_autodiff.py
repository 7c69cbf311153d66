"""Whole random networks, the three ReLU rules, cuts at any layer, and the errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from captum.attr import Deconvolution, GuidedBackprop, Saliency
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from support.pair import Pair, distance, session
from torch import nn

from convlens.errors import InvalidArgument
from convlens_models.graphs.autodiff import ReluRule, check, differentiate

TOLERANCE = 1e-5
QUICK = settings(max_examples=25, deadline=None, derandomize=True, database=None)


class Network(Pair):
    """Layers of a random network."""

    def __init__(self, draw: st.DrawFn, image: np.ndarray, rule: ReluRule) -> None:
        super().__init__(image, rule)
        self.draw, self.noise = draw, np.random.default_rng(draw(st.integers(0, 99)))

    def channels(self, x: str) -> int:
        return int(self.values[x].shape[1])

    def conv(self, x: str, outputs: int, kernel: int = 3, stride: int = 1) -> str:
        inputs, pad = self.channels(x), kernel // 2
        scale = (2 / (inputs * kernel * kernel)) ** 0.5
        weight = self.noise.standard_normal((outputs, inputs, kernel, kernel)) * scale
        bias = self.noise.standard_normal(outputs) * 0.1
        return str(
            self.op(
                "Conv", x, self.const(weight.astype(np.float32)), self.const(bias.astype(np.float32)),
                kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4,
                ref=lambda x, w, b: F.conv2d(x, w, b, stride, pad),
            )
        )  # fmt: skip

    def normalise(self, x: str) -> str:
        numbers = [self.noise.uniform(0.5, 1.5, self.channels(x)).astype(np.float32) for _ in range(4)]
        return str(
            self.op(
                "BatchNormalization", x, *map(self.const, numbers),
                ref=lambda x, s, b, m, v: F.batch_norm(x, m, v, s, b),
            )
        )  # fmt: skip

    def max_pool(self, x: str) -> str:
        kernel, stride, pad, ceil = self.draw(
            st.sampled_from([(2, 2, 0, 0), (3, 2, 0, 1), (3, 2, 1, 0), (3, 1, 1, 0)])
        )
        if min(self.values[x].shape[2:]) < 4:
            return x
        return str(
            self.op(
                "MaxPool", x, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4, ceil_mode=ceil,
                ref=lambda x: F.max_pool2d(x, kernel, stride, pad, ceil_mode=bool(ceil)),
            )
        )  # fmt: skip

    def fire(self, x: str) -> str:
        """SqueezeNet's branches."""
        squeezed = self.relu(self.conv(x, 4, 1))
        wide = [self.relu(self.conv(squeezed, 6, kernel)) for kernel in (1, 3)]
        return str(self.op("Concat", *wide, axis=1, ref=lambda *parts: torch.cat(parts, 1)))

    def inception(self, x: str) -> str:
        """A branch that pools, one that is the input itself, one that ends in a convolution."""
        include = self.draw(st.integers(0, 1))
        pooled = self.op(
            "AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=include,
            ref=lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=bool(include)),
        )  # fmt: skip
        sides = [pooled, x, self.relu(self.conv(x, 5))]
        return str(self.op("Concat", *sides, axis=1, ref=lambda *parts: torch.cat(parts, 1)))

    def residual(self, x: str) -> str:
        """ResNet's block, with or without a stride."""
        stride = self.draw(st.integers(1, 2)) if min(self.values[x].shape[2:]) > 3 else 1
        inner = self.relu(self.normalise(self.conv(x, 6, 3, stride)))
        inner = self.normalise(self.conv(inner, 8))
        around = self.conv(x, 8, 1, stride)
        return self.relu(str(self.op("Add", inner, around, ref=torch.add)))

    def plain(self, x: str) -> str:
        """VGG's convolution."""
        return self.relu(self.conv(x, 6, self.draw(st.sampled_from([1, 3, 5]))))

    def head(self, x: str) -> str:
        """Pool, classify, log-probabilities."""
        pixel = self.op("GlobalAveragePool", x, ref=lambda x: x.mean((2, 3), keepdim=True))
        rows = self.op("Flatten", pixel, ref=lambda x: x.flatten(1))
        weight = self.const(self.noise.standard_normal((5, self.channels(rows))).astype(np.float32))
        logits = self.op("Gemm", rows, weight, transB=1, ref=lambda x, w: x @ w.T)
        return str(self.op("LogSoftmax", logits, axis=1, ref=lambda x: F.log_softmax(x, 1)))


@st.composite
def networks(draw: st.DrawFn) -> Network:
    sizes = (draw(st.integers(1, 3)), 3, draw(st.integers(12, 21)), draw(st.integers(12, 21)))
    image = np.random.default_rng(draw(st.integers(0, 99))).uniform(0, 1, sizes)
    net = Network(draw, image, draw(st.sampled_from(ReluRule)))
    x = net.plain("image")
    for _ in range(draw(st.integers(1, 3))):
        block = draw(st.sampled_from([net.plain, net.fire, net.inception, net.residual, net.max_pool]))
        x = block(x)
    net.head(x)
    return net


@QUICK
@given(networks(), st.data())
def test_random_networks_equal_float64_autograd(net: Network, data: st.DataObject) -> None:
    """At the output, and at any other value, those inside branches too."""
    inner = data.draw(st.sampled_from([node.output[0] for node in net.nodes]))
    for layer in ("", inner):
        for sizes, (value, gradient) in net.errors(layer).items():
            assert value < TOLERANCE, (layer, sizes)
            assert gradient < TOLERANCE, (layer, sizes)


@QUICK
@given(networks(), st.data())
def test_gradients_by_an_inner_value_equal_float64_autograd(net: Network, data: st.DataObject) -> None:
    """By any value on the way to the output, joined and rectified ones too."""
    wrt = data.draw(st.sampled_from([node.output[0] for node in net.nodes[:-1]]))
    for sizes, (_, gradient) in net.errors(wrt=wrt).items():
        assert gradient < TOLERANCE, (wrt, sizes)


def test_what_a_relu_blocks_behind_a_pool_is_not_blocked_before_it() -> None:
    """The gradient by a rectified map reaches the first position of a window that is zero throughout."""
    pair = Pair(np.zeros((1, 3, 4, 4)))
    rectified = pair.relu(pair.op("Identity", "image", ref=lambda x: x))
    pair.op("MaxPool", rectified, kernel_shape=[2, 2], strides=[2, 2], ref=lambda x: F.max_pool2d(x, 2))
    assert all(gradient < TOLERANCE for _, gradient in pair.errors(wrt=rectified).values())


def test_a_gradient_by_another_name_of_a_value() -> None:
    """As Grad-CAM asks a ResNet, whose last block is another name of its last ReLU."""
    pair = Pair(np.random.default_rng(1).standard_normal((1, 3, 4, 4)))
    rectified = pair.relu(pair.op("Identity", "image", ref=lambda x: x))
    block = pair.op("Identity", rectified, ref=lambda x: x)
    pair.op("MaxPool", rectified, kernel_shape=[2, 2], strides=[2, 2], ref=lambda x: F.max_pool2d(x, 2))
    pair.values[block] = pair.values[rectified]
    assert all(gradient < TOLERANCE for _, gradient in pair.errors(wrt=block).values())


@pytest.mark.parametrize("wrt", ["relu1", "relu3"])
def test_a_gradient_by_what_does_not_lead_to_the_layer_is_refused(wrt: str) -> None:
    pair = Pair(np.zeros((1, 3, 4, 4)))
    first = pair.relu(pair.op("Identity", "image", ref=lambda x: x))
    pair.relu(pair.op("Identity", "image", ref=lambda x: x))
    assert (first, pair.nodes[-1].output[0]) == ("relu1", "relu3")
    with pytest.raises(InvalidArgument, match=f"depends on the {wrt}"):
        differentiate(pair.model(), "relu1", wrt=wrt)


@pytest.mark.parametrize("groups", [1, 5])
@pytest.mark.parametrize("classes", [[3, 7], [3, 3], []])
def test_class_scores_of_a_convolution(groups: int, classes: list[int]) -> None:
    """As in SqueezeNet: only the classes that the cotangent names pass through the scoring convolution."""
    noise = np.random.default_rng(4)
    pair = Pair(noise.uniform(0, 1, (2, 5, 6, 6)))
    weight = pair.const(noise.standard_normal((10, 5 // groups, 1, 1)).astype(np.float32))
    scores = pair.op("Conv", "image", weight, group=groups, ref=lambda x, w: F.conv2d(x, w, groups=groups))
    pixel = pair.op("GlobalAveragePool", pair.relu(scores), ref=lambda x: x.mean((2, 3), keepdim=True))
    layer = pair.op("Flatten", pixel, ref=lambda x: x.flatten(1))
    cotangent = np.zeros((2, 10), np.float32)
    for image, chosen in enumerate(classes):
        cotangent[image, chosen] = 2.0
    (expected,) = torch.autograd.grad(
        pair.values[layer], pair.values["image"], torch.from_numpy(cotangent).double()
    )
    for shape in (None, (2, 6, 6)):
        graph = differentiate(pair.model(), layer, shape=shape)
        feeds = {"image": pair.image, "cotangent": cotangent}
        assert distance(session(graph).run(["image_gradient"], feeds)[0], expected) < TOLERANCE


def test_kernels_are_rearranged_when_the_session_is_built(tmp_path: Path) -> None:
    """Not at every pass: ONNX Runtime folds the nodes that only depend on weights."""
    _, model = small_network()
    graph = differentiate(model, model.graph.output[0].name, shape=(1, 20, 20))
    assert {"Gather", "Transpose"} <= {node.op_type for node in graph.graph.node}
    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized.onnx"), 3
    ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kinds.count("Transpose") <= 1  # Of the class that the cotangent chooses, which only a pass knows.
    assert "ConvTranspose" not in kinds
    assert "Pad" not in kinds


def small_network() -> tuple[nn.Module, onnx.ModelProto]:
    """A torch network and its ONNX twin."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(16, 32, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(32, 10, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    pair = Pair(np.zeros((1, 3, 20, 20)))
    numbers = {key: pair.const(value.numpy().copy()) for key, value in module.state_dict().items()}
    window = {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}
    x = "image"
    for kind, key, attributes in [
        ("Conv", "0", {"pads": [1] * 4}), ("Relu", "", {}), ("MaxPool", "", window),
        ("Conv", "3", {}), ("Relu", "", {}), ("AveragePool", "", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Conv", "6", {}), ("Relu", "", {}), ("GlobalAveragePool", "", {}), ("Flatten", "", {}),
    ]:  # fmt: skip
        weights = [numbers[f"{key}.weight"], numbers[f"{key}.bias"]] if key else []
        x = pair.op(kind, x, *weights, ref=lambda first, *_: first, **attributes)
    return module, pair.model()


@pytest.mark.parametrize(
    ("rule", "method"),
    [
        (ReluRule.GRADIENT, Saliency),
        (ReluRule.GUIDED, GuidedBackprop),
        (ReluRule.DECONVNET, Deconvolution),
    ],
)
@pytest.mark.filterwarnings("ignore:Setting backward hooks")
def test_rules_agree_with_captum(rule: ReluRule, method: type) -> None:
    module, model = small_network()
    module.double()
    image = torch.rand(1, 3, 20, 20, requires_grad=True)
    options = {"abs": False} if rule is ReluRule.GRADIENT else {}
    expected = method(module).attribute(image.double(), target=3, **options).detach().numpy()
    cotangent = np.eye(10, dtype=np.float32)[3:4]
    graph = differentiate(model, model.graph.output[0].name, rule, (1, 20, 20))
    actual = session(graph).run(
        ["image_gradient"], {"image": image.detach().numpy(), "cotangent": cotangent}
    )[0]
    assert np.linalg.norm(actual - expected) < TOLERANCE * np.linalg.norm(expected)


def test_rules_differ() -> None:
    _, model = small_network()
    feeds = {
        "image": np.random.default_rng(1).uniform(0, 1, (1, 3, 20, 20)).astype(np.float32),
        "cotangent": np.eye(10, dtype=np.float32)[:1],
    }
    graphs = [differentiate(model, model.graph.output[0].name, rule) for rule in ReluRule]
    first, second, third = (session(graph).run(["image_gradient"], feeds)[0] for graph in graphs)
    for a, b in ((first, second), (second, third), (first, third)):
        assert np.linalg.norm(a - b) > 0.1 * np.linalg.norm(a)


def test_branches_beside_the_cut_are_left_out() -> None:
    pair = Pair(np.zeros((1, 3, 8, 8)))
    left = pair.op("Sigmoid", "image", ref=torch.sigmoid)
    right = pair.op("Tanh", "image", ref=torch.tanh)
    pair.op("Concat", left, right, axis=1, ref=lambda *parts: torch.cat(parts, 1))
    kinds = {node.op_type for node in differentiate(pair.model(), left).graph.node}
    assert "Sigmoid" in kinds
    assert not kinds & {"Tanh", "Concat", "Slice"}


def test_weights_in_external_files_are_not_read() -> None:
    _, model = small_network()
    for tensor in model.graph.initializer:
        if tensor.name == "constant0":
            onnx.external_data_helper.set_external_data(tensor, location="nowhere.safetensors")
            tensor.ClearField("raw_data")
    graph = differentiate(model, model.graph.output[0].name, shape=(1, 20, 20))
    kept = next(tensor for tensor in graph.graph.initializer if tensor.name == "constant0")
    assert kept.data_location == TensorProto.EXTERNAL


@pytest.mark.parametrize("opset", [16, 17, 20, 22])
def test_opsets(opset: int) -> None:
    """Operators that changed between the opsets: reductions, pools, padding."""
    pair = Pair(np.random.default_rng(0).uniform(0, 1, (2, 3, 9, 9)), opset=opset)
    weight = np.random.default_rng(1).standard_normal((16, 3, 3, 3)).astype(np.float32)
    x = pair.relu(
        pair.op(
            "Conv", "image", pair.const(weight), strides=[2, 2], ref=lambda x, w: F.conv2d(x, w, stride=2)
        )
    )
    x = pair.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], ref=lambda x: F.max_pool2d(x, 2))
    x = pair.op("AveragePool", x, kernel_shape=[2, 2], ref=lambda x: F.avg_pool2d(x, 2, 1))
    inputs, options = ([pair.const(np.array([2, 3]))], {}) if opset >= 18 else ([], {"axes": [2, 3]})
    pair.op("ReduceMean", x, *inputs, keepdims=0, ref=lambda x, *_: x.mean((2, 3)), **options)
    for sizes, (_, gradient) in pair.errors().items():
        assert gradient < TOLERANCE, sizes


DTYPES = {"Shape": TensorProto.INT64, "Cast": TensorProto.DOUBLE}


def one_node(kind: str, domain: str = "", opset: int = 18, **attributes: object) -> onnx.ModelProto:
    node = helper.make_node(kind, ["image"], ["y"], name="the_node", domain=domain, **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ("N", 3, "H", "W"))],
        [helper.make_tensor_value_info("y", DTYPES.get(kind, TensorProto.FLOAT), None)],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("elsewhere", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


@pytest.mark.parametrize(
    ("model", "layer", "message"),
    [
        (one_node("Hardmax"), "y", r"no rule for Hardmax \(the_node\)"),
        (one_node("Relu", domain="elsewhere"), "y", r"no rule for Relu \(the_node\)"),
        (one_node("Relu", opset=13), "y", "model.opset = 13: must be from 16 to"),
        (one_node("Relu"), "nothing", "'nothing'"),
        (one_node("Shape"), "y", "layer = 'y': must be a floating-point value"),
        (one_node("BatchNormalization", training_mode=1), "y", "training mode"),
        (one_node("Cast", to=TensorProto.DOUBLE), "y", "'y' is DOUBLE, only FLOAT has rules"),
    ],
)
def test_what_cannot_be_differentiated_says_why(model: onnx.ModelProto, layer: str, message: str) -> None:
    if "training" in message:
        model.graph.node[0].input.extend(["s"] * 4)
        model.graph.initializer.append(helper.make_tensor("s", TensorProto.FLOAT, [3], [1.0] * 3))
    with pytest.raises(InvalidArgument, match=message):
        differentiate(model, layer)


def test_check_names_every_operator_without_a_rule() -> None:
    model = one_node("Hardmax")
    more = [
        helper.make_node("GlobalLpPool", ["y"], ["z"], name="second"),
        helper.make_node("Hardmax", ["z"], ["w"], name="third"),
        helper.make_node("Shape", ["w"], ["sizes"]),
        helper.make_node("Tan", ["fixed"], ["beside"]),
    ]
    model.graph.node.extend(more)
    model.graph.initializer.append(helper.make_tensor("fixed", TensorProto.FLOAT, [1], [0.0]))
    with pytest.raises(InvalidArgument, match=r"GlobalLpPool \(second\); Hardmax \(the_node, third\)$"):
        check(model)
    check(one_node("Relu"))
