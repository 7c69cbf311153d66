"""What the output of a user's classifier means: decided from its graph and from its values on pictures.

Every network of the repository has scores (N, classes), of which its probabilities are the softmax, or with
independent classes the sigmoid of each. A file may end with scores or with probabilities. It is taken back
to a value within the graph only where the function of that value is, number by number, the file's output on
all pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from convlens.errors import InvalidArgument
from convlens_models.graphs import surgery
from convlens_models.importing import verify
from convlens_models.importing.scores import Form, Scores
from convlens_models.manifest import INPUT, LOG_PROBABILITIES, PROBABILITIES, OutputKind

F64 = NDArray[np.float64]

PICTURES: Final = 8
RELATIVE: Final = 1e-4
HALF: Final = 2e-3
"""The same where half precision is on the way, which has 11 bits."""
SMALL: Final = 2e-7
"""Probabilities below are not told apart: files clip them there, and float32 has no more digits near 1."""
WEIGHTED: Final = frozenset(
    {
        *("Conv", "ConvInteger", "ConvTranspose", "QLinearConv"),
        *("Einsum", "Gemm", "MatMul", "MatMulInteger", "QLinearMatMul"),
        *("BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization"),
    }
)
"""The operators whose values may be scores, and before which none are looked for."""
FLOATS: Final = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)


@dataclass(frozen=True)
class _Meaning:
    """What an output of one kind is like.

    Attributes:
        of_scores: the output (P, C) of scores (P, C), for files that are taken back to these.
        fits: whether values (P, C) may be such an output.
        operators: those before the output, one of which must be there for values that fit to be enough.
        looks: what `fits` asks for, in words.
    """

    of_scores: Callable[[F64], F64]
    fits: Callable[[F64], bool]
    operators: frozenset[str]
    looks: str


class Head(NamedTuple):
    """What was decided.

    Attributes:
        kind: what the file's output is.
        logits: the value that holds the scores, (N, classes).
        hidden: values on the way to the outputs that are no layers.
        same: the value that has the numbers of the file's output.
        mix: of a file whose output is one number: how this follows from the two numbers of `same`.
    """

    kind: OutputKind
    logits: str
    hidden: frozenset[str]
    same: str
    mix: tuple[float, float] | None


class _Seen(NamedTuple):
    """The output (P, C) on the pictures, and what comes before it: name to (P, C), the nearest first."""

    output: F64
    before: dict[str, F64]
    forms: dict[str, Form]


def choose_output(model: onnx.ModelProto, wanted: str | None) -> str:
    """The name of the output that is the classifier's: the only one, or the one that is `wanted`.

    Raises:
        InvalidArgument: several and none wanted, or none of that name; lists them with their shapes.
    """
    names = [info.name for info in model.graph.output]
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted in names:
        return wanted
    shown = ", ".join(f"{info.name} {_declared(info)}" for info in model.graph.output) or "none"
    if wanted is None:
        raise InvalidArgument.of(
            "output", f"{len(names)} outputs", f"named, as --output NAME: one of {shown}"
        )
    raise InvalidArgument.of("output", wanted, f"one of the file's outputs: {shown}")


def settle(
    model: onnx.ModelProto, output: str, size: int, wanted: OutputKind | None = None, *, folder: Path
) -> Head:
    """Decide what `output` is, and end the graph with the scores, their probabilities and the logarithms.

    Args:
        model: its input "image" (N, 3, H, W) is open; changed in place, what leads nowhere is dropped.
        size: side of the pictures that it is run on, in pixels.
        wanted: what the user says that it is; None: what graph and values say.
        folder: where its weights lie.

    Raises:
        InvalidArgument: these do not decide, or say something else than the user; names the choice.
    """
    makers = {node.output[0]: node for node in model.graph.node}
    while output in makers and makers[output].op_type == "Identity":
        output = makers[output].input[0]
    tail = list(_tail(model, output))
    seen = _seen(model, output, tail, size, folder)
    if seen is None:
        return _end(model, Scores(model, output), "scores", False, None)
    operators = frozenset(node.op_type for node in model.graph.node if set(node.output).intersection(tail))
    proven = _proven(seen)
    kind = _checked(wanted, proven, seen) if wanted else _decided(proven, seen, operators)
    source = proven.get(kind, output)
    scores = Scores(model, source)
    scores.vector(seen.forms[source])
    # What nothing bounds are no probabilities yet, though all may be in [0, 1] by chance.
    bounded = _within(seen.output) and bool(operators & BOUNDED)
    applied = kind in proven or kind == "log-probabilities"
    if not applied and (kind == "probabilities" or (kind in SIGMOIDS and bounded)):
        scores.invert(kind)
        applied = True
    mix = None
    if kind in ("scores", "sigmoid") and seen.output.shape[1] == 1:
        scores.two_classes()
        mix = (0.0, 1.0) if applied else (-1.0, 1.0)
    return _end(model, scores, kind, applied, mix)


def _end(
    model: onnx.ModelProto, scores: Scores, kind: OutputKind, applied: bool, mix: tuple[float, float] | None
) -> Head:
    """The ended graph; `applied`: whether the file's output is what `kind` says, and not the scores of it."""
    scores.finish(independent=kind == "multilabel")
    needed = surgery.ancestors(model.graph, [info.name for info in model.graph.output])
    surgery.replace(model.graph.node, [node for node in model.graph.node if needed.intersection(node.output)])
    probabilities = LOG_PROBABILITIES if kind == "log-probabilities" else PROBABILITIES
    same = probabilities if applied else scores.value
    return Head(kind, scores.value, frozenset(scores.hidden), same, mix)


def _decided(proven: dict[OutputKind, str], seen: _Seen, operators: frozenset[str]) -> OutputKind:
    """The kind that graph and values agree on."""
    fitting = [kind for kind, meaning in MEANINGS.items() if meaning.fits(seen.output)]
    if not fitting and seen.output.shape[1] > 1 and not operators & NORMALISING:
        return "scores"
    for kind in fitting[:1]:
        # As scores, logarithms of probabilities mean the same, whatever made them.
        if kind in proven or kind == "log-probabilities" or operators & MEANINGS[kind].operators:
            return kind
        # Of a few scores that nothing bounds, all may be in [0, 1] by chance; they do not sum to 1 by chance.
        if kind == "multilabel" and not operators & BOUNDED:
            return "scores"
    after = (
        f"comes after {', '.join(sorted(operators & NORMALISING))} and " if operators & NORMALISING else ""
    )
    choice = " or ".join(_choice(seen))
    allowed = (
        f"one of --output-kind {choice}, as file and values do not tell: the output {after}{_told(seen)}"
    )
    raise InvalidArgument.of("output_kind", "", allowed)


def _checked(wanted: OutputKind, proven: dict[OutputKind, str], seen: _Seen) -> OutputKind:
    """`wanted`, unless graph or values contradict it."""
    found = next((kind for kind in proven if {kind, wanted} != {"scores", "log-probabilities"}), wanted)
    if found != wanted:
        allowed = f"{found}: the output is the {_function(found)} of {proven[found]} on all pictures"
        raise InvalidArgument.of("output_kind", wanted, allowed)
    if wanted not in (choice := _choice(seen)):
        meant = f", as {wanted} {MEANINGS[wanted].looks}" if wanted in MEANINGS else ""
        raise InvalidArgument.of(
            "output_kind", wanted, f"{' or '.join(choice)}: the output {_told(seen)}{meant}"
        )
    return wanted


def _proven(seen: _Seen) -> dict[OutputKind, str]:
    """For each kind, the scores of which the output is the function on all pictures, where there are any.

    The nearest to the output; then the first of which it differs by one number a picture, as by its maximum:
    that changes no softmax.
    """
    found: dict[OutputKind, str] = {}
    for kind, meaning in MEANINGS.items():
        if not meaning.fits(seen.output):
            continue
        same = [name for name, value in seen.before.items() if _same(meaning.of_scores(value), seen)]
        if same and kind not in SIGMOIDS:
            near = seen.before[same[0]]
            same = [name for name in same if _shifted(seen.before[name], near)][-1:]
        if same:
            found[kind] = same[0]
    return found


def _same(values: F64, seen: _Seen) -> bool:
    half = any(form.dtype == np.float16 for form in seen.forms.values())
    return bool(np.allclose(values, seen.output, rtol=HALF if half else RELATIVE, atol=SMALL))


def _shifted(value: F64, other: F64) -> bool:
    """Whether two scores (P, C) differ by one number a picture."""
    difference = value - other
    spread = np.ptp(difference, axis=1)
    return bool((spread <= 1e-5 * (1 + np.abs(value).max() + np.abs(other).max())).all())


def _seen(model: onnx.ModelProto, output: str, tail: list[str], size: int, folder: Path) -> _Seen | None:
    """The output and the tail's values on pictures, one by one; None if it is no vector of classes.

    Where the network also takes pictures of twice the side, the values must be such vectors there too.
    """
    # ONNX Runtime must be told the element types, so that values of integers are left out.
    inferred = onnx.shape_inference.infer_shapes(model)
    infos = (*inferred.graph.value_info, *inferred.graph.output)
    types = {info.name: info.type.tensor_type.elem_type for info in infos}
    names = [output, *(name for name in tail if name != output and types.get(name) in FLOATS)]
    cut = surgery.cut(inferred, names)
    for info in cut.graph.output:
        info.type.tensor_type.ClearField("shape")
    rows = [verify.run(cut, folder, names, {INPUT: image[None]}) for image in pictures(PICTURES, size)]
    exact = rows[0][0]
    classes = exact.size
    if not all(_vector(row[0], classes) for row in rows) or max(exact.shape[1:]) != classes:
        return None
    try:
        larger = verify.run(cut, folder, names, {INPUT: pictures(1, 2 * size)})
    except InvalidArgument:
        larger = rows[0]
    if larger[0].shape == exact.shape and _vector(larger[0], classes):
        rows.append(larger)
    stacked = {
        name: np.concatenate([value.reshape(1, -1) for value in values]).astype(np.float64)
        for name, *values in zip(names, *rows, strict=True)
        if all(_vector(value, classes) for value in values)
    }
    forms = {name: Form(value.ndim, value.dtype) for name, value in zip(names, rows[0], strict=True)}
    return _Seen(stacked.pop(output), stacked, forms)


def _vector(value: NDArray[np.float32], classes: int) -> bool:
    return value.ndim > 1 and value.shape[0] == 1 and value.size == classes and bool(np.isfinite(value).all())


def _tail(model: onnx.ModelProto, output: str) -> Iterator[str]:
    """The values from `output` back to the last that weights made, the nearest first."""
    reached = {output}
    for node in reversed(model.graph.node):
        if reached.intersection(node.output):
            yield from node.output
            reached.update(() if node.op_type in WEIGHTED else node.input)


def pictures(count: int, size: int) -> NDArray[np.float32]:
    """The same pictures (count, 3, size, size) every time: noisy patches of colour, from faint to strong."""
    random = np.random.default_rng(0)
    cells = random.random((count, 3, 6, 6), np.float32)
    places = np.arange(size) * 6 // size
    contrast = np.linspace(0.4, 1, count, dtype=np.float32).reshape(-1, 1, 1, 1)
    patches = 0.5 + (cells[:, :, places][..., places] - 0.5) * contrast
    noise: NDArray[np.float32] = random.random((count, 3, size, size), np.float32) - np.float32(0.5)
    return np.asarray(np.clip(patches + 0.3 * contrast * noise, 0, 1), np.float32)


def softmax(scores: F64) -> F64:
    """Softmax of each row of scores (P, C)."""
    return np.exp(_log_softmax(scores))


def sigmoid(scores: F64) -> F64:
    """1 / (1 + exp(-z)) for each score z."""
    return np.asarray(np.exp(-np.logaddexp(0, -scores)))


def _log_softmax(scores: F64) -> F64:
    return np.asarray(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True))


def _within(values: F64) -> bool:
    """Whether all values are in [0, 1]."""
    return bool(((values >= -SMALL) & (values <= 1 + SMALL)).all())


def _sums(values: F64) -> bool:
    """Whether the values of each picture sum to 1, to what half precision keeps of it."""
    return bool((np.abs(values.sum(axis=1) - 1) < 2e-3).all())


def _declared(info: onnx.ValueInfoProto) -> str:
    dims = (dim.dim_param or str(dim.dim_value or "?") for dim in info.type.tensor_type.shape.dim)
    return f"({', '.join(dims)})"


def _told(seen: _Seen) -> str:
    values, sums = seen.output, seen.output.sum(axis=1)
    numbers = f"is {values.shape[1]} numbers" if values.shape[1] > 1 else "is one number"
    text = f"{numbers} between {values.min():.3g} and {values.max():.3g}"
    return (
        f"{text} that sum to between {sums.min():.4g} and {sums.max():.4g}" if values.shape[1] > 1 else text
    )


def _choice(seen: _Seen) -> list[OutputKind]:
    """The kinds that values like these can be."""
    if seen.output.shape[1] == 1:
        return ["scores", "sigmoid"]
    normal: tuple[OutputKind, ...] = ("probabilities", "log-probabilities")
    return ["scores", "multilabel", *(kind for kind in normal if MEANINGS[kind].fits(seen.output))]


def _function(kind: OutputKind) -> str:
    return {"probabilities": "softmax", "log-probabilities": "logarithm of the softmax"}.get(kind, "sigmoid")


SIGMOIDS: Final = ("sigmoid", "multilabel")
NORMALISING: Final = frozenset({"Softmax", "LogSoftmax"})
SQUASHING: Final = frozenset({"Sigmoid", "HardSigmoid"})
BOUNDED: Final = NORMALISING | SQUASHING | {"Clip", "Tanh", "Min", "Exp", "Div", "Erf"}
MEANINGS: Final[dict[OutputKind, _Meaning]] = {
    "probabilities": _Meaning(
        softmax,
        lambda values: values.shape[1] > 1 and _within(values) and _sums(values),
        NORMALISING | {"Exp", "Sigmoid"},
        "are in [0, 1] and sum to 1",
    ),
    "log-probabilities": _Meaning(
        _log_softmax,
        lambda values: values.shape[1] > 1 and bool((values <= SMALL).all()) and _sums(np.exp(values)),
        NORMALISING,
        "are at most 0 and their exponentials sum to 1",
    ),
    "sigmoid": _Meaning(
        sigmoid, lambda values: values.shape[1] == 1 and _within(values), SQUASHING, "is one number"
    ),
    "multilabel": _Meaning(
        sigmoid, lambda values: values.shape[1] > 1 and _within(values), SQUASHING, "are several numbers"
    ),
}
"""The kinds that are recognised, in the order in which values that fit several are taken."""
