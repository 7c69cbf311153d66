"""What the fields of a job must have to do with each other, with its model and with its pictures.

What a field may hold by itself stands in the proto (`validation`). Here is what no bound can say, in a table
by technique, so that it is refused when the job is submitted, and not by a worker hours later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from convlens import wire
from convlens.errors import InvalidArgument
from convlens.v1 import attack_pb2, job_pb2
from convlens_models.manifest import Manifest
from convlens_server.quick.images import Size

DREAM_SIDE: Final = 32
"""Smallest side of an octave, whatever the network takes."""
DREAM_PIXELS: Final = 1 << 27
"""Of all frames of a video."""
JUDGED: Final = 5
"""A patch is judged by every fifth picture, where none are given to judge it by."""


@dataclass(frozen=True)
class Submitted:
    """A job whose fields are each within their bounds.

    Attributes:
        path: of its technique in the request.
        params: the technique's message.
        sizes: height and width of each picture, by its path.
    """

    path: str
    params: Any
    manifest: Manifest
    sizes: Mapping[str, Size]

    def refused(self, field: str, shown: object, allowed: str) -> InvalidArgument:
        """The error that names a field of the technique."""
        return InvalidArgument.of(f"{self.path}.{field}", shown, allowed)


Check = Callable[[Submitted], None]


def check(path: str, params: Any, manifest: Manifest, sizes: Mapping[str, Size]) -> None:
    """Look at all that the technique at `path` asks for. Raises InvalidArgument, naming the field."""
    job = Submitted(path, params, manifest, sizes)
    for each in CHECKS.get(path, ()):
        each(job)


def one_size(*fields: str) -> Check:
    """All pictures of these fields are of the size of the first one."""

    def check(job: Submitted) -> None:
        places = [f"{field}[{i}]" for field in fields for i in range(len(getattr(job.params, field)))]
        height, width = job.sizes[f"{job.path}.{places[0]}"]
        for place in places:
            found = job.sizes[f"{job.path}.{place}"]
            if found != (height, width):
                shown = f"{found[1]} x {found[0]} pixels"
                raise job.refused(place, shown, f"{width} x {height} as {places[0]}")

    return check


def one_an_image(field: str, *, one_for_all: bool = False, none: bool = False) -> Check:
    """There are as many of the field as images; or one, or none, where that is allowed."""

    def check(job: Submitted) -> None:
        count, images = len(getattr(job.params, field)), len(job.params.images)
        if count == images or (one_for_all and count == 1) or (none and not count):
            return
        others = ["one an image", *["one for all"] * one_for_all, *["none"] * none]
        raise job.refused(field, f"{count} items", f"{images} items, {', or '.join(others)}")

    return check


def radius(job: Submitted) -> None:
    """In L-infinity epsilon is a share of a pixel's range: 8 would be meant as 8/255."""
    params = job.params
    if params.norm != attack_pb2.NORM_L2 and params.epsilon > 1:
        raise job.refused("epsilon", params.epsilon, "between 0 and 1 for L-infinity, as pixel values are")


def rising(job: Submitted) -> None:
    """Each epsilon is above the one before."""
    before = 0.0
    for position, epsilon in enumerate(job.params.epsilons):
        if not before < epsilon <= 1:
            allowed = f"above {before:.6g} and at most 1"
            raise job.refused(f"epsilons[{position}]", round(epsilon, 6), allowed)
        before = epsilon


def held_out(job: Submitted) -> None:
    """There is a picture to judge a patch by."""
    if not job.params.held_out and len(job.params.images) < JUDGED:
        raise job.refused("held_out", "nothing", f"given, or {JUDGED} images, of which the last is one")


def weights(job: Submitted) -> None:
    """One weight for each of the layers; at least 0, and not all of them 0."""
    given, layers = job.params.weights, job.params.layers
    if given and ((layers and len(given) != len(layers)) or min(given) < 0 or not any(given)):
        count = f"{len(layers)} of" if layers else "numbers of"
        shown = [round(weight, 6) for weight in given]
        raise job.refused("weights", shown, f"{count} at least 0, one a layer, not all 0")


def styles(job: Submitted) -> None:
    """One style at least counts."""
    if not any(style.weight for style in job.params.styles):
        raise job.refused("styles", "weights of 0", "at least one weight above 0")


def tile(job: Submitted) -> None:
    """A tile holds twice what the network needs."""
    manifest, found = job.manifest, job.params.tile
    least = 2 * max(DREAM_SIDE, manifest.min_size if manifest.dynamic_size else 0)
    if 0 < found < least:
        raise job.refused("tile", found, f"0, or at least {least}")


def frames(job: Submitted) -> None:
    """A video fits into the worker's memory."""
    height, width = job.sizes[f"{job.path}.image"]
    most = max(1, DREAM_PIXELS // (height * width))
    if job.params.frames > most:
        raise job.refused("frames", job.params.frames, f"at most {most} of {height} x {width} pixels")


def channels(job: Submitted) -> None:
    """There is a layer to dream of, and it has these channels."""
    layers = list(job.params.layers) or list(job.manifest.dream_layers)
    if not layers:
        raise job.refused("layers", [], f"set: {job.manifest.name} has no dream layers")
    if job.params.channels and len(layers) > 1:
        raise job.refused("layers", layers, "only one, as there are channels")
    count = job.manifest.layer(layers[0], f"{job.path}.layers[0]").shape[0]
    for position, channel in enumerate(job.params.channels):
        if not 0 <= channel < count:
            allowed = f"between 0 and {count - 1}, the last channel of {layers[0]}"
            raise job.refused(f"channels[{position}]", channel, allowed)


def objectives(job: Submitted) -> None:
    """Classes are named; channels, neurons and directions are the model's at this size."""
    for field, target in _targets(job.params):
        kind = target.WhichOneof("target")
        if kind is None:
            raise job.refused(field, "nothing", "given")
        wanted = getattr(target, kind)
        if kind in ("class_score", "log_probability"):
            if not wanted.HasField("index"):
                allowed = "given: there is no picture to predict it from"
                raise job.refused(f"{field}.{kind}.index", "nothing", allowed)
        elif kind == "direction":
            _direction(job, f"{field}.{kind}.vector", wanted)
        else:
            _position(job, f"{field}.{kind}", wanted)


def _targets(params: job_pb2.FeatureVisualisation) -> Iterator[tuple[str, Any]]:
    for i, objective in enumerate(params.objectives):
        for j, term in enumerate(objective.terms):
            yield f"objectives[{i}].terms[{j}].target", term.target


def _direction(job: Submitted, field: str, wanted: Any) -> None:
    vector, channels = wire.from_tensor(wanted.vector, f"{job.path}.{field}"), _shape(job, wanted)[0]
    allowed = f"float32 of shape [{channels}], finite and not all 0"
    if vector.dtype != np.float32 or vector.shape != (channels,):
        raise job.refused(field, f"{vector.dtype} of shape {list(vector.shape)}", allowed)
    if not np.isfinite(vector).all() or not vector.any():
        raise job.refused(field, "other numbers", allowed)


def _position(job: Submitted, field: str, wanted: Any) -> None:
    names = [name for name in ("channel", "y", "x") if name in wanted.DESCRIPTOR.fields_by_name]
    if job.params.size not in (0, job.manifest.input_size):
        names = names[:1]  # How large the map is then, only the network can tell.
    for name, extent in zip(names, (*_shape(job, wanted), 1, 1), strict=False):
        position = getattr(wanted, name)
        if position >= extent:
            allowed = f"between 0 and {extent - 1} in {wanted.layer} at this size"
            raise job.refused(f"{field}.{name}", position, allowed)


def _shape(job: Submitted, wanted: Any) -> tuple[int, ...]:
    return tuple(job.manifest.layer(wanted.layer).shape)


IMAGES: Final = one_size("images")
LABELS: Final = one_an_image("labels")
TARGETS: Final = one_an_image("targets", one_for_all=True)
CHECKS: Final[Mapping[str, tuple[Check, ...]]] = {
    "deepdream": (channels, tile, frames),
    "feature_visualisation": (objectives,),
    "texture": (weights,),
    "style_transfer": (weights, styles),
    "train_style": (weights,),
    "lbfgs_attack": (IMAGES, TARGETS),
    "carlini_wagner": (
        IMAGES,
        one_an_image("targets", one_for_all=True, none=True),
        one_an_image("labels", none=True),
    ),
    "expectation_attack": (IMAGES, TARGETS, radius),
    "adversarial_patch": (one_size("images", "held_out"), held_out),
    "defence_attack": (IMAGES, LABELS),
    "attack_ensemble": (IMAGES, LABELS, radius),
    "transfer_matrix": (IMAGES, LABELS),
    "substitute": (one_size("images", "held_out"),),
    "printed_photo": (IMAGES, LABELS, rising),
}
"""By technique; those without such rules are not in it."""
