"""The tensors and parameters that clients of the Open Inference Protocol send, read and checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from convlens import wire
from convlens.errors import InvalidArgument
from convlens.inference import open_inference_pb2 as pb
from convlens_models.manifest import Manifest
from convlens_server.backends.base import F32, Backend

IMAGE, COTANGENT = "image", "cotangent"
FP32: Final = "FP32"
MAX_SIDE: Final = 4096
"""The most pixels that a side of an image may have."""
ONE: Final = np.float32(1).view(np.uint32)
"""No number in [0, 1] but -0.0 has larger bits; all that is outside, NaN too, has larger ones."""


def read_inputs(request: pb.ModelInferRequest, raw: Sequence[bytes | memoryview]) -> dict[str, F32]:
    """The inputs by name; raw contents are not copied.

    Raises:
        InvalidArgument: not FP32, several of a name, or not as many values as the shape says.
    """
    if raw and len(raw) != len(request.inputs):
        allowed = f"{len(request.inputs)}, one an input"
        raise InvalidArgument.of("raw_input_contents", f"{len(raw)} items", allowed)
    inputs: dict[str, F32] = {}
    for position, item in enumerate(request.inputs):
        field = f"inputs[{position}]"
        if item.datatype != FP32:
            raise InvalidArgument.of(f"{field}.datatype", item.datatype, FP32)
        if item.name in inputs:
            raise InvalidArgument.of(f"{field}.name", item.name, "given once")
        if any(not 0 <= extent < 1 << 31 for extent in item.shape):
            raise InvalidArgument.of(f"{field}.shape", list(item.shape), "extents of at least 0")
        inputs[item.name] = _values(raw[position] if raw else None, item, field)
    return inputs


def _values(raw: bytes | memoryview | None, item: pb.ModelInferRequest.InferInputTensor, field: str) -> F32:
    count, listed = math.prod(item.shape), item.contents.fp32_contents
    given = len(listed) if raw is None else len(raw) / 4
    if given != count:
        allowed = f"{count} values of 4 bytes, for shape {list(item.shape)}"
        raise InvalidArgument.of(field, f"{given:g} values", allowed)
    flat = np.array(listed, np.float32) if raw is None else np.frombuffer(raw, "<f4")
    return wire.reshaped(flat, item.shape, f"{field}.shape")


def read_parameters(parameters: Mapping[str, pb.InferParameter], known: Sequence[str]) -> dict[str, str]:
    """The values of the known parameters, all strings. Raises InvalidArgument for values of other types."""
    values = {}
    for name, value in parameters.items():
        if name not in known:
            continue  # Clients send priorities and timeouts that mean nothing here.
        if value.WhichOneof("parameter_choice") != "string_param":
            raise InvalidArgument.of(f"parameters.{name}", str(value).strip(), "a string")
        values[name] = value.string_param
    return values


def expect(inputs: Mapping[str, F32], names: Sequence[str]) -> None:
    """Raise InvalidArgument unless the inputs have just these names."""
    if set(inputs) != set(names):
        raise InvalidArgument.of("inputs", list(inputs), f"{' and '.join(names)}, and nothing else")


def check_image(inputs: dict[str, F32], manifest: Manifest, max_pixels: int) -> None:
    """Raise InvalidArgument unless there are images of a size for the model, not too many, in [0, 1].

    What float32's rounding has brought out of [0, 1] is clipped in `inputs`.
    """
    if IMAGE not in inputs:
        raise InvalidArgument.of("inputs", list(inputs), f"{IMAGE!r} among them")
    image, side = inputs[IMAGE], manifest.input_size
    least, most = (manifest.min_size, MAX_SIDE) if manifest.dynamic_size else (side, side)
    fits = image.ndim == 4 and image.shape[1] == 3 and min(image.shape) > 0
    fits = fits and least <= min(image.shape[2:]) <= max(image.shape[2:]) <= most
    if not fits or not manifest.takes(*image.shape[2:]):
        if manifest.dynamic_size:
            allowed = f"(N, 3, H, W) of {least} to {most} pixels a side{manifest.steps}"
        else:
            allowed = f"(N, 3, {side}, {side}), {manifest.why_one_size}"
        raise InvalidArgument.of(IMAGE, list(image.shape), allowed)
    if image.size > 3 * max_pixels:
        raise InvalidArgument.of(IMAGE, list(image.shape), f"at most {max_pixels} pixels together")
    if image.reshape(-1).view(np.uint32).max() > ONE:
        inputs[IMAGE] = wire.within_unit(image, IMAGE)


def check_cotangent(inputs: Mapping[str, F32], layer: str, backend: Backend) -> None:
    """Raise InvalidArgument unless the cotangent is finite and has the shape of the layer's value."""
    manifest, image, cotangent = backend.stored.manifest, inputs[IMAGE], inputs[COTANGENT]
    shape = tuple(manifest.layer(layer).shape)
    if len(shape) > 1 and image.shape[2:] != (manifest.input_size,) * 2:
        shape = backend.forward(image[:1], [layer])[layer].shape[1:]
    wanted = (len(image), *shape)
    if cotangent.shape != wanted:
        allowed = f"{list(wanted)}, as the value of {layer}"
        raise InvalidArgument.of(COTANGENT, list(cotangent.shape), allowed)
    if not np.isfinite(cotangent).all():
        raise InvalidArgument.of(COTANGENT, "other numbers", "finite")
