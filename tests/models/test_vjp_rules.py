"""Every rule of the table against float64 autograd, with open and with fixed sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import operators
from support.pair import Pair

from convlens_models.vjp import OPERATORS

TOLERANCE = 1e-5
RANDOM = np.random.default_rng(7)


def noise(*shape: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return (RANDOM.standard_normal(shape) * scale + shift).astype(np.float32)


class Rule(NamedTuple):
    """One node (or a few) on an image of (2, 4, 6, 7) normal numbers, spread by `scale` around `shift`."""

    name: str
    build: Callable[[Pair], object]
    scale: float = 1.0
    shift: float = 0.0


def ints(pair: Pair, *values: int) -> str:
    return pair.const(np.array(values, np.int64))


def unary(name: str, ref: Callable[[torch.Tensor], torch.Tensor], **attributes: float) -> Rule:
    kind = name.split(":", maxsplit=1)[0]
    return Rule(name, lambda pair: pair.op(kind, "image", ref=ref, **attributes))


def binary(
    kind: str,
    ref: Callable[..., torch.Tensor],
    shape: tuple[int, ...],
    swap: bool = False,
    shift: float = 3.0,
) -> Rule:
    def build(pair: Pair) -> None:
        other = pair.const(np.abs(noise(*shape)) + np.float32(shift))
        first, second = (other, "image") if swap else ("image", other)
        pair.op(kind, first, second, ref=ref)

    return Rule(f"{kind}:{shape}{':swapped' if swap else ''}", build, scale=0.3, shift=2.0)


def between_branches(kind: str, ref: Callable[..., torch.Tensor], small: str) -> Rule:
    """Both operands depend on the image, and one is broadcast: pooled to a pixel, or to one channel."""

    def build(pair: Pair) -> None:
        if small == "pixel":
            other = pair.op("GlobalAveragePool", "image", ref=lambda v: v.mean((2, 3), keepdim=True))
        else:
            other = pair.op("ReduceMean", "image", ints(pair, 1), ref=lambda v, _: v.mean(1, keepdim=True))
        pair.op(kind, other, "image", ref=ref)

    return Rule(f"{kind}:{small}", build, scale=0.2, shift=2.0)


def with_ints(name: str, ref: Callable[..., object], *values: tuple[int, ...], **attributes: object) -> Rule:
    kind = name.split(":", maxsplit=1)[0]
    return Rule(
        name,
        lambda pair: pair.op(
            kind, "image", *(ints(pair, *v) for v in values), ref=lambda v, *_: ref(v), **attributes
        ),
    )


def gemm(turn_a: int, turn_b: int) -> Rule:
    def build(pair: Pair) -> None:
        rows = pair.op("Flatten", "image", ref=lambda v: v.flatten(1), axis=1)
        if turn_a:
            rows = pair.op("Transpose", rows, ref=lambda v: v.T, perm=[1, 0])
        weight = pair.const(noise(5, 168) if turn_b else noise(168, 5))
        bias = pair.const(noise(5))
        pair.op(
            "Gemm", rows, weight, bias, transA=turn_a, transB=turn_b, alpha=0.5, beta=2.0,
            ref=lambda a, b, c: 0.5 * (a.T if turn_a else a) @ (b.T if turn_b else b) + 2 * c,
        )  # fmt: skip

    return Rule(f"Gemm:{turn_a}{turn_b}", build)


def gemm_of_branches(turn_a: int, turn_b: int) -> Rule:
    """A^T-or-A times B-or-B^T plus C, all three from the image."""

    def build(pair: Pair) -> None:
        rows = pair.op("Flatten", "image", ref=lambda v: v.flatten(1), axis=1)
        square = pair.op("Gemm", rows, rows, ref=lambda a, b: a.T @ b, transA=1)
        wave = pair.op("Tanh", square, ref=torch.tanh)
        pair.op(
            "Gemm", wave, square, rows_of(pair, rows), transA=turn_a, transB=turn_b, beta=0.5,
            ref=lambda a, b, c: (a.T if turn_a else a) @ (b.T if turn_b else b) + 0.5 * c,
        )  # fmt: skip

    def rows_of(pair: Pair, rows: str) -> str:
        return str(
            pair.op("ReduceSum", rows, ints(pair, 0), ref=lambda v, _: v.sum(0, keepdim=True), keepdims=1)
        )

    return Rule(f"Gemm:branches:{turn_a}{turn_b}", build, scale=0.3)


def matmul_of_branches(pair: Pair) -> None:
    turned = pair.op("Transpose", "image", ref=lambda v: v.transpose(2, 3), perm=[0, 1, 3, 2])
    square = pair.op("MatMul", turned, "image", ref=torch.matmul)
    shared = pair.const(noise(1, 1, 7, 3))
    pair.op("MatMul", square, shared, ref=torch.matmul)


def matmul_broadcast(pair: Pair) -> None:
    mean = pair.op("ReduceMean", "image", ints(pair, 1), ref=lambda v, _: v.mean(1, keepdim=True))
    turned = pair.op("Transpose", mean, ref=lambda v: v.transpose(2, 3), perm=[0, 1, 3, 2])
    pair.op("MatMul", "image", turned, ref=torch.matmul)


def split_unused(pair: Pair) -> None:
    parts = pair.op(
        "Split", "image", ints(pair, 1, 2, 1), ref=lambda v, _: v.split([1, 2, 1], 1), outputs=3, axis=1
    )
    pair.op("Mul", parts[0], parts[1], ref=torch.mul)


def concat(pair: Pair) -> None:
    wave = pair.op("Tanh", "image", ref=torch.tanh)
    fixed = pair.const(noise(2, 3, 6, 7))
    pair.op("Concat", "image", fixed, wave, ref=lambda *parts: torch.cat(parts, 1), axis=1)


def concat_of_open_sizes(pair: Pair) -> None:
    wave = pair.op("Tanh", "image", ref=torch.tanh)
    pair.op("Concat", "image", wave, "image", ref=lambda *parts: torch.cat(parts, 2), axis=2)


def gather_elements(pair: Pair) -> None:
    index = RANDOM.integers(0, 6, (2, 4, 3, 7))
    pair.op("GatherElements", "image", pair.const(index), ref=lambda v, i: v.gather(2, i.long()), axis=2)


def where(pair: Pair) -> None:
    chosen = pair.const(RANDOM.integers(0, 2, (1, 4, 6, 7)).astype(bool))
    pixel = pair.op("GlobalMaxPool", "image", ref=lambda v: v.amax((2, 3), keepdim=True))
    pair.op("Where", chosen, "image", pixel, ref=lambda c, a, b: torch.where(c.bool(), a, b))


def expand(pair: Pair) -> None:
    pixel = pair.op("GlobalAveragePool", "image", ref=lambda v: v.mean((2, 3), keepdim=True))
    pair.op("Expand", pixel, ints(pair, 5, 2, 4, 3, 1), ref=lambda v, _: v.expand(5, 2, 4, 3, 1))


def batch_normalization(pair: Pair) -> None:
    scale, shift, mean = (pair.const(noise(4)) for _ in range(3))
    variance = pair.const(np.abs(noise(4)) + np.float32(0.5))
    pair.op(
        "BatchNormalization", "image", scale, shift, mean, variance, epsilon=1e-3,
        ref=lambda x, s, b, m, v: F.batch_norm(x, m, v, s, b, eps=1e-3),
    )  # fmt: skip


def prelu(pair: Pair) -> None:
    slope = noise(4, 1, 1)
    pair.op("PRelu", "image", pair.const(slope), ref=lambda x, s: F.prelu(x, s.flatten()))


def clip(pair: Pair) -> None:
    low, high = (pair.const(np.array(bound, np.float32)) for bound in (-0.5, 0.7))
    pair.op("Clip", "image", low, high, ref=lambda x, a, b: x.clamp(a, b))


def clip_above(pair: Pair) -> None:
    pair.op("Clip", "image", "", pair.const(np.array(0.5, np.float32)), ref=lambda x, b: x.clamp(max=b))


def pad(pair: Pair) -> None:
    pair.op(
        "Pad", "image", ints(pair, 0, 1, 2, 0, 0, 0, 1, 3), pair.const(np.array(0.5, np.float32)),
        ref=lambda x, *_: F.pad(x, (0, 3, 2, 1, 1, 0), value=0.5),
    )  # fmt: skip


def power(pair: Pair) -> None:
    pair.op("Pow", "image", pair.const(np.array(3, np.int64)), ref=lambda x, _: x**3)


def diamond(pair: Pair) -> None:
    """A value used three times, one of them by both sides of one node."""
    wave = pair.op("Tanh", "image", ref=torch.tanh)
    square = pair.op("Mul", wave, wave, ref=torch.mul)
    pair.op("Sum", wave, square, "image", ref=lambda *parts: sum(parts))


ARITHMETIC = {"Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": torch.div}
RULES_TESTED = [
    unary("Abs", torch.abs),
    unary("Elu", lambda x: F.elu(x, 0.7), alpha=0.7),
    unary("Erf", torch.erf),
    unary("Exp", torch.exp),
    unary("HardSigmoid", lambda x: (0.3 * x + 0.4).clamp(0, 1), alpha=0.3, beta=0.4),
    unary("HardSwish", lambda x: F.hardswish(2 * x / 2)),
    unary("LeakyRelu", lambda x: F.leaky_relu(x, 0.2), alpha=0.2),
    unary("LogSoftmax:last", lambda x: F.log_softmax(x, -1)),
    unary("LogSoftmax:channel", lambda x: F.log_softmax(x, 1), axis=1),
    unary("Neg", torch.neg),
    unary("Relu", torch.relu),
    unary("Selu", torch.selu),
    unary("Sigmoid", torch.sigmoid),
    unary("Softmax:last", lambda x: F.softmax(x, -1)),
    unary("Softmax:channel", lambda x: F.softmax(x, 1), axis=1),
    unary("Softplus", F.softplus),
    unary("Tanh", torch.tanh),
    unary("Identity", lambda x: x),
    unary("Cast", lambda x: x, to=1),
    unary("GlobalAveragePool", lambda x: x.mean((2, 3), keepdim=True)),
    unary("GlobalMaxPool", lambda x: x.amax((2, 3), keepdim=True)),
    unary("Transpose:given", lambda x: x.permute(2, 0, 3, 1), perm=[2, 0, 3, 1]),
    unary("Transpose:default", lambda x: x.permute(3, 2, 1, 0)),
    unary("LRN", lambda x: F.local_response_norm(x, 3, 0.3, 0.6, 2.0), size=3, alpha=0.3, beta=0.6, bias=2.0),
    unary("Flatten", lambda x: x.flatten(1)),
    unary("Flatten:rows", lambda x: x.reshape(48, 7), axis=3),
    *(
        Rule(kind, lambda pair, kind=kind, ref=ref: pair.op(kind, "image", ref=ref), scale=0.2, shift=2.0)
        for kind, ref in (("Log", torch.log), ("Reciprocal", torch.reciprocal), ("Sqrt", torch.sqrt))
    ),
    Rule("Dropout", lambda pair: pair.op("Dropout", "image", ref=lambda x: x)),
    Rule("CastLike", lambda pair: pair.op("CastLike", "image", pair.const(noise(1)), ref=lambda x, _: x)),
    *(binary(k, f, (4, 1, 1)) for k, f in ARITHMETIC.items()),
    *(binary(k, f, (3, 1, 4, 6, 1), swap=True) for k, f in (("Sub", torch.sub), ("Mul", torch.mul))),
    binary("Div", torch.div, (1,), swap=True),
    *(
        between_branches(k, f, small)
        for k, f in ARITHMETIC.items()
        for small in ("pixel", "channel")
    ),
    with_ints("Reshape", lambda x: x.reshape(2, 12, 14), (0, 12, 14)),
    with_ints("Unsqueeze", lambda x: x[:, :, None, :, :, None], (2, 5)),
    with_ints("ReduceMean", lambda x: x.mean((1, 3), keepdim=True), (1, -1)),
    with_ints("ReduceMean:flat", lambda x: x.mean((2, 3)), (2, 3), keepdims=0),
    with_ints("ReduceMean:all", lambda x: x.mean().reshape(1, 1, 1, 1)),
    with_ints("ReduceSum", lambda x: x.sum(2), (2,), keepdims=0),
    with_ints("ReduceSum:none", lambda x: x, noop_with_empty_axes=1),
    with_ints("Slice", lambda x: x[:, 1:3, ::2], (1, 0), (3, 99), (1, 2), (1, 2)),
    with_ints("Slice:backwards", lambda x: x.flip(3), (-1,), (-99,), (3,), (-1,)),
    with_ints("Gather", lambda x: x[:, [2, 0, 2]], (2, 0, 2), axis=1),
    Rule("Squeeze", lambda pair: pair.op(
        "Squeeze",
        pair.op("GlobalAveragePool", "image", ref=lambda v: v.mean((2, 3), keepdim=True)),
        ints(pair, 2, 3),
        ref=lambda v, _: v[:, :, 0, 0],
    )),
    *(gemm(a, b) for a in (0, 1) for b in (0, 1)),
    *(gemm_of_branches(a, b) for a in (0, 1) for b in (0, 1)),
    Rule("MatMul:branches", matmul_of_branches, scale=0.5),
    Rule("MatMul:broadcast", matmul_broadcast),
    Rule("Split", split_unused),
    Rule("Concat", concat),
    Rule("Concat:open", concat_of_open_sizes),
    Rule("GatherElements", gather_elements),
    Rule("Where", where),
    Rule("Expand", expand),
    Rule("BatchNormalization", batch_normalization),
    Rule("PRelu", prelu),
    Rule("Clip", clip),
    Rule("Clip:above", clip_above),
    Rule("Pad", pad),
    Rule("Pow", power),
    Rule("Sum", diamond),
]  # fmt: skip


@pytest.mark.parametrize("case", RULES_TESTED, ids=lambda case: case.name)
def test_rule_equals_float64_autograd(case: Rule) -> None:
    pair = Pair(noise(2, 4, 6, 7, scale=case.scale, shift=case.shift))
    case.build(pair)
    for sizes, (value, gradient) in pair.errors().items():
        assert value < TOLERANCE, sizes
        assert gradient < TOLERANCE, sizes


@pytest.mark.parametrize("case", operators.CASES, ids=lambda case: case.name)
def test_rule_of_a_further_operator_equals_float64_autograd(case: operators.Case) -> None:
    pair = case.build()
    for sizes, (value, gradient) in pair.errors(pair.nodes[-1].output[0]).items():
        assert value < TOLERANCE, sizes
        assert gradient < TOLERANCE, sizes


def test_every_rule_is_tested() -> None:
    elsewhere = {"Conv", "ConvTranspose", "MaxPool", "AveragePool"}  # test_vjp_windows.py
    cases = [*RULES_TESTED, *operators.CASES]
    assert {case.name.split(":")[0] for case in cases} | elsewhere == {
        kind for kind, row in OPERATORS.items() if row.gradient
    }
