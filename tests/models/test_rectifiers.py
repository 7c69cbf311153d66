"""What guided backpropagation and the deconvnet send back through activations other than ReLU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.pair import Pair

from convlens.errors import FailedPrecondition
from convlens_models.graphs.autodiff import ReluRule, differentiate, rules

Tensor = torch.Tensor
RANDOM = np.random.default_rng(13)
TOLERANCE = 1e-5
RULES = list(ReluRule)


class Reference(torch.autograd.Function):
    """y = f(x); backwards as the rules are defined, with f' by float64 autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, f: Callable[[Tensor], Tensor], rule: ReluRule, opened: float) -> Tensor:
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            value = f(at)
            (slope,) = torch.autograd.grad(value.sum(), at)
        ctx.save_for_backward(slope)
        ctx.rule, ctx.opened = rule, opened
        return value.detach()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        back = {
            ReluRule.GRADIENT: lambda: g * slope,
            ReluRule.GUIDED: lambda: torch.where((g > 0) & (slope > 0), g * slope, 0),
            ReluRule.DECONVNET: lambda: torch.where(g > 0, g * ctx.opened, 0),
        }[ctx.rule]()
        return back, None, None, None


Build = Callable[[Callable[..., str], str], str]
"""(op, x) -> y, where op appends a node, of values by name and of numbers."""


class Activation(NamedTuple):
    """An activation as `build` writes it, the function that it is, and its slope where it is open."""

    name: str
    f: Callable[[Tensor], Tensor]
    build: Build
    opened: float = 1.0

    def append(self, pair: Pair, x: str) -> None:
        """Its nodes, and its definition under the rule of the pair."""

        def op(kind: str, *inputs: Any, **attributes: Any) -> str:
            names = [v if isinstance(v, str) else pair.const(np.asarray(v, np.float32)) for v in inputs]
            return str(pair.op(kind, *names, ref=lambda *values: values[0], **attributes))

        y = self.build(op, x)
        pair.values[y] = Reference.apply(pair.values[x], self.f, pair.rule, self.opened)


def single(
    kind: str, f: Callable[[Tensor], Tensor], *others: Any, opened: float = 1.0, **more: Any
) -> Activation:
    return Activation(kind, f, lambda op, x: op(kind, x, *others, **more), opened)


def gelu_by_tanh(op: Callable[..., str], x: str) -> str:
    inner = op("Mul", op("Add", x, op("Mul", op("Pow", x, 3.0), 0.044715)), math.sqrt(2 / math.pi))
    return op("Mul", op("Mul", x, 0.5), op("Add", op("Tanh", inner), 1.0))


def tanh_form(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


SLOPES = np.array([0.3, -0.2, 0.1, 0.0], np.float32).reshape(4, 1, 1)
ACTIVATIONS = [
    single("Clip", F.relu6, 0, 6),
    single("Max", lambda x: x.clamp(min=0), 0),
    single("HardSigmoid", lambda x: (0.3 * x + 0.5).clamp(0, 1), opened=0.3, alpha=0.3),
    single("HardSwish", F.hardswish),
    single("PRelu", lambda x: F.prelu(x, torch.tensor(SLOPES).double().flatten()), SLOPES),
    single("LeakyRelu", lambda x: F.leaky_relu(x, 0.1), alpha=0.1),
    single("Elu", F.elu),
    single("Celu", F.celu),
    single("Selu", F.selu, opened=1.0507010),
    single("Gelu", F.gelu),
    single("Gelu", tanh_form, approximate="tanh"),
    single("Swish", F.silu),
    single("Mish", F.mish),
    single("Softplus", F.softplus),
    single("ThresholdedRelu", lambda x: F.threshold(x, 0.5, 0.0), alpha=0.5),
    Activation("silu", F.silu, lambda op, x: op("Mul", x, op("Sigmoid", x))),
    Activation(
        "silu / 1.7",
        lambda x: x * torch.sigmoid(1.7 * x),
        lambda op, x: op("Mul", op("Sigmoid", op("Mul", x, 1.7)), x),
    ),
    Activation("silu by /", F.silu, lambda op, x: op("Div", x, op("Add", op("Exp", op("Neg", x)), 1.0))),
    Activation(
        "hard swish",
        F.hardswish,
        lambda op, x: op("Div", op("Mul", x, op("Clip", op("Add", x, 3.0), 0.0, 6.0)), 6.0),
    ),
    Activation(
        "hard swish, gate", F.hardswish, lambda op, x: op("Mul", x, op("HardSigmoid", x, alpha=1 / 6))
    ),
    Activation(
        "gelu",
        F.gelu,
        lambda op, x: op("Mul", op("Mul", x, op("Add", op("Erf", op("Div", x, math.sqrt(2))), 1.0)), 0.5),
    ),
    Activation(
        "gelu, halved",
        F.gelu,
        lambda op, x: op("Mul", op("Mul", 0.5, x), op("Add", 1.0, op("Erf", op("Mul", x, math.sqrt(0.5))))),
    ),
    Activation("gelu by tanh", tanh_form, gelu_by_tanh),
    Activation("mish", F.mish, lambda op, x: op("Mul", x, op("Tanh", op("Softplus", x)))),
    Activation(
        "mish by log", F.mish, lambda op, x: op("Mul", op("Tanh", op("Log", op("Add", op("Exp", x), 1.0))), x)
    ),
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda activation: activation.name)
def test_rules_are_those_of_their_definition(activation: Activation, rule: ReluRule) -> None:
    """Twice in a row, so that a signal of both signs comes in, and behind a residual connection."""
    pair = Pair(RANDOM.normal(0, 2, (2, 4, 3, 5)), rule, opset=24)
    weight = pair.const(RANDOM.normal(0, 1, (4, 1, 1)).astype(np.float32))
    for _ in range(2):
        x = pair.op("Mul", pair.nodes[-1].output[0] if pair.nodes else "image", weight, ref=torch.mul)
        activation.append(pair, x)
        pair.op("Add", pair.nodes[-1].output[0], x, ref=torch.add)
    for sizes, errors in pair.errors().items():
        assert max(errors[1:]) < TOLERANCE, sizes


def chain(*kinds: str, rule: ReluRule = ReluRule.GRADIENT) -> Pair:
    pair = Pair(RANDOM.standard_normal((1, 4, 3, 5)), rule)
    for kind in kinds:
        last = pair.nodes[-1].output[0] if pair.nodes else "image"
        reference = {"Relu": lambda x: Reference.apply(x, torch.relu, rule, 1.0), "Tanh": torch.tanh}
        pair.op(kind, last, ref=reference[kind])
    return pair


@pytest.mark.parametrize("rule", [ReluRule.GUIDED, ReluRule.DECONVNET])
def test_a_network_without_rectifier_is_refused_by_name(rule: ReluRule) -> None:
    pair = chain("Tanh", "Tanh")
    assert rules(pair.model()) == [ReluRule.GRADIENT]
    with pytest.raises(FailedPrecondition, match=rf"{rule} .* 2 Tanh; ask for its gradient") as error:
        differentiate(pair.model(), pair.nodes[-1].output[0], rule)
    assert error.value.reason == "NO_RECTIFIER"


@pytest.mark.parametrize("rule", RULES)
def test_what_is_no_rectifier_sends_its_gradient(rule: ReluRule) -> None:
    pair = chain("Tanh", "Relu", "Tanh", rule=rule)
    assert max(error for errors in pair.errors().values() for error in errors) < TOLERANCE


@pytest.mark.parametrize("rule", RULES)
def test_the_gate_of_other_numbers_is_no_rectifier(rule: ReluRule) -> None:
    """Squeeze and excitation (Hu et al. 2018, arXiv:1709.01507): the gate is of a channel's mean."""
    pair = chain("Relu", rule=rule)
    mean = pair.op("GlobalAveragePool", "relu0", ref=lambda x: x.mean((2, 3), keepdim=True))
    gate = pair.op("Sigmoid", mean, ref=torch.sigmoid)
    pair.op("Mul", "relu0", gate, ref=torch.mul)
    assert max(error for errors in pair.errors().values() for error in errors) < TOLERANCE
