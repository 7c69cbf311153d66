"""Proves a staged network against the file that it came from, before it is published.

Scores are held against ONNX Runtime's own run of the file, on eight pictures, in batches and at several
sizes; gradients against differences in float64, by another implementation of the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from convlens.errors import InvalidArgument
from convlens_models.graphs import autodiff, surgery
from convlens_models.importing import upgrade, verify
from convlens_models.importing.exact import Exact
from convlens_models.importing.head import Head
from convlens_models.importing.original import Original
from convlens_models.importing.pictures import pictures
from convlens_models.manifest import INPUT

Array = NDArray[Any]
Size = tuple[int, int]

SAME: Final = 1e-5
"""Largest difference of two scores, relative to the largest score, that float32 explains by itself."""
LOOSE: Final = 1e-3
"""The same of a network that, in another order of its sums, differs from itself as much."""
BATCHES: Final = (1, 2, 3, 8)
DIRECTIONS: Final = 2
CHANCES: Final = 4
ROUNDING: Final = 4e-15
"""Of scores in float64, relative to their sum."""
LONGEST: Final = 1e-4
"""The longest step, where `STEP` would not show above the rounding."""
STEP: Final = 1e-6
"""Of pixel values. Of ten million units some ten have their kink so near: differences in float64, whose own
error is 1e-9 relative to the scores, then measure the slope at the picture and nothing else."""
SLOPE: Final = 1e-3
"""Largest error of a slope, relative to the length of the gradient, whatever the network."""
JUMP: Final = 5e-2
"""The same where the gradient itself jumps as far among images that float32 hardly tells apart."""
HARDLY: Final = 1e-6


@dataclass(frozen=True)
class Served:
    """A staged network: its graph in our form, whose weights lie in `folder`.

    Attributes:
        head: where its scores are, and what has the numbers of the file's output.
        former: what its values were called in the file, where they were called something else.
        tolerance: largest difference of two outputs, relative to the largest, of a file in other numbers than
            float32; None: what float32 explains.
    """

    model: onnx.ModelProto
    folder: Path
    head: Head
    former: dict[str, str]
    tolerance: float | None

    def session(self, names: Sequence[str]) -> verify.Session:
        """The network, built to compute these values."""
        return verify.Session(surgery.cut(self.model, names), self.folder, names)

    def as_file(self, values: Array) -> Array:
        """The file's output of the numbers (N, classes) of `head.same`."""
        return values if self.head.mix is None else values @ np.array(self.head.mix, values.dtype)[:, None]


def check_scores(served: Served, original: Original, size: int) -> float:
    """Raise InvalidArgument unless images by themselves have the file's scores; the largest error.

    The message names the first node whose value is another.
    """
    images = pictures(size, size)
    expected, found = _file_scores(original, images), _one_by_one(served, images)
    if (error := _error(found, expected)) > _allowed(served, original, images, expected, error):
        where = first_difference(served, original, images[:1])
        raise InvalidArgument(
            f"model: its scores differ by {error:.2g} of the largest from the file's own{where}",
            field="model",
        )
    return error


def batch_error(served: Served, original: Original, size: int) -> float | None:
    """The largest error of images in batches of 2, 3 and 8; None where some do not have the file's scores."""
    images = pictures(size, size)
    expected = _file_scores(original, images)
    session, worst = served.session([served.head.same]), 0.0
    for batch in BATCHES[1:]:
        try:
            (found,) = session.run({INPUT: images[-batch:]})
        except InvalidArgument:
            return None
        worst = max(worst, _error(served.as_file(found), expected[-batch:]))
    return worst if worst <= _allowed(served, original, images, expected, worst) else None


def sizes_error(served: Served, original: Original, sizes: Sequence[Size]) -> float | None:
    """The largest error at these heights and widths; None where the file has other scores, or none."""
    session, worst = served.session([served.head.same]), 0.0
    for height, width in sizes:
        images = pictures(height, width, 1)
        try:
            expected = _file_scores(original, images)
            (found,) = session.run({INPUT: images})
        except InvalidArgument:
            return None
        error = _error(served.as_file(found), expected)
        if error > _allowed(served, original, images, expected, error):
            return None
        worst = max(worst, error)
    return worst


def check_slopes(served: Served, original: Original, size: Size) -> float | None:
    """Raise InvalidArgument unless the gradient has the slopes of the file in float64; the largest error.

    The slope of a random sum of scores is measured in random directions d of unit variance, where
    |slope - <gradient, d>| / |gradient| is about the error of the gradient relative to its length. At kinks
    float32 may fall on the other side: up to twice what the gradient jumps for noise of 1e-6 is allowed, and
    of `CHANCES` pictures one is enough, as a wrong rule is wrong on all.

    None where the file rounds its values, so that there are no slopes, or ONNX's reference computes others.
    """
    logits = served.former.get(served.head.logits, served.head.logits)
    at_logits = logits in original.values_made
    ours = served.head.logits if at_logits else served.head.same
    mix = None if at_logits else served.head.mix
    images = pictures(*size, CHANCES)
    (value,) = served.session([ours]).run({INPUT: images[:1]})
    expected = value if mix is None else served.as_file(value)
    exact = _exact(original, logits if at_logits else original.output, images[:1], expected)
    if exact is None:
        return None
    errors = list[float]()
    for image in images:
        error, allowed = _slopes_error(served, original, exact, (ours, mix), image[None])
        errors.append(error)
        if error <= allowed:
            return error
    raise InvalidArgument(
        f"model: the gradient of its scores is off by {min(errors):.2g} of its length from that of the file",
        field="model",
    )


def _slopes_error(
    served: Served,
    original: Original,
    exact: Exact,
    compared: tuple[str, tuple[float, float] | None],
    images: Array,
) -> tuple[float, float]:
    """The largest error of the slopes at one picture, and how large it may be."""
    (ours, mix), rng = compared, np.random.default_rng(1)
    base = exact.value(original.exact_pixels(images))
    weights = rng.standard_normal(base.shape)
    cotangent = weights if mix is None else weights.reshape(1, 1) * np.array([mix])
    gradient = _gradient(served, ours, images, cotangent)
    length = max(float(np.linalg.norm(gradient)), 1e-30)
    # Of untrained networks gradients are so small that the difference would drown in float64's own rounding.
    rounding = ROUNDING * float(np.abs(weights * base).sum()) / length
    step = min(max(STEP, rounding / SLOPE), LONGEST)
    worst = 0.0
    for _ in range(DIRECTIONS):
        direction = rng.standard_normal(images.shape)
        moved = exact.value(original.exact_pixels(images + step * direction))
        slope = float((weights * (moved - base)).sum()) / step
        worst = max(worst, abs(slope - float((gradient * direction).sum())) / length)
    resolved = max(SLOPE, min(JUMP, rounding / step))
    if worst <= resolved:
        return worst, resolved
    return worst, max(resolved, min(JUMP, 2 * _jump(served, ours, images, cotangent, gradient)))


def _exact(original: Original, value: str, images: Array, expected: Array) -> Exact | None:
    """The file in float64, if that has the values that it is expected to have.

    ONNX's reference knows operators as the newest opset has them; of an old file it takes what became of it.
    """
    for newer in (False, True):
        model = onnx.load(original.file)
        try:
            if newer:
                upgrade.upgrade(model)
            exact = Exact(model, value)
            if exact.rounds:
                return None
            if _error(exact.value(original.exact_pixels(images)), expected) <= LOOSE:
                return exact
        except Exception:  # The reference raises whatever it stumbles over.
            continue
    return None


def _jump(served: Served, value: str, images: Array, weights: Array, gradient: Array) -> float:
    """How far the gradient moves, relative to its length, for noise that float32 hardly sees."""
    rng = np.random.default_rng(2)
    moved = [images + HARDLY * rng.standard_normal(images.shape).astype(np.float32) for _ in range(4)]
    others = [_gradient(served, value, other, weights) for other in moved]
    length = max(float(np.linalg.norm(gradient)), 1e-30)
    return max(float(np.linalg.norm(other - gradient)) for other in others) / length


def _gradient(served: Served, value: str, images: Array, weights: Array) -> Array:
    graph = autodiff.differentiate(served.model, value, shape=(1, *images.shape[2:]))
    feeds = {INPUT: images, autodiff.COTANGENT: weights.reshape(1, -1).astype(np.float32)}
    (gradient,) = verify.run(graph, served.folder, [autodiff.IMAGE_GRADIENT], feeds)
    return gradient.astype(np.float64)


def first_difference(served: Served, original: Original, images: Array) -> str:
    """Where the values part: " first at ..." the node of the file; nothing where no value tells."""
    for value in _shared(served, original):
        try:
            (found,) = served.session([value]).run({INPUT: images})
            (expected,) = original.values(images, [served.former.get(value, value)])
        except InvalidArgument:
            continue
        if _error(found, expected) > 10 * SAME:
            node = original.values_made[served.former.get(value, value)]
            return f", first at {node.op_type} node {node.name or node.output[0]!r}"
    return ""


def _shared(served: Served, original: Original) -> Iterator[str]:
    """The values that both have, in their order."""
    for node in served.model.graph.node:
        for value in node.output:
            if served.former.get(value, value) in original.values_made:
                yield value


def _one_by_one(served: Served, images: Array) -> Array:
    session = served.session([served.head.same])
    return served.as_file(np.concatenate([session.run({INPUT: image[None]})[0] for image in images]))


def _file_scores(original: Original, images: Array) -> Array:
    """The file's output for each image by itself."""
    parts = [original.values(image[None], [original.output])[0] for image in images]
    return np.concatenate([part.reshape(1, -1) if part.shape[0] != 1 else part for part in parts])


def _error(found: Array, expected: Array) -> float:
    """The largest difference relative to the largest number; infinite where shapes or finiteness differ."""
    if found.size != expected.size or not np.isfinite(found).all():
        return float("inf")
    difference = np.abs(found.astype(np.float64).reshape(expected.shape) - expected)
    return float(difference.max() / max(float(np.abs(expected).max()), 1e-30))


def _allowed(served: Served, original: Original, images: Array, expected: Array, error: float) -> float:
    """What float32 explains: `SAME`, or more where the file, optimised otherwise, differs from itself."""
    if served.tolerance is not None:
        return served.tolerance
    if error <= SAME or not np.isfinite(error):
        return SAME
    other = np.concatenate([original.plain(image[None]) for image in images]).reshape(expected.shape)
    return min(LOOSE, max(SAME, 4 * _error(other, expected)))
