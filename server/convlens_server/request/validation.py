"""Requests checked against the bounds that stand in the proto: one walk for every message there is.

`Bounds` and `one_required` (convlens/v1/bounds.proto) say what a field accepts, and what it is taken for when
it is absent. Nothing behind this module checks a range again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeVar

import numpy as np
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from convlens.errors import InvalidArgument
from convlens.v1 import bounds_pb2
from convlens_models.manifest import Manifest

M = TypeVar("M", bound=Message)
Check = Callable[[Message, Manifest | None, str], None]

FLOATS: Final = (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE)
REPEATED: Final = -1
"""Stands for a count where otherwise a descriptor type stands."""
UNITS: Final = {
    FieldDescriptor.TYPE_STRING: " characters",
    FieldDescriptor.TYPE_BYTES: " bytes",
    REPEATED: " items",
}


def validate(message: M, manifest: Manifest | None = None, path: str = "") -> M:
    """A copy of `message` with the defaults filled in, once every field has been found within its bounds.

    Args:
        message: any request.
        manifest: the model that layers and class indices belong to; they are not looked at without one.
        path: what the fields' paths begin with, as "model" in "model.version".

    Raises:
        InvalidArgument: names the path of the field, as in "attributions[1].target.neuron.channel", its value
            and what is allowed. Numbers that are not finite are refused everywhere.
    """
    checked = type(message)()
    checked.CopyFrom(message)
    _walk(checked, manifest, path)
    return checked


def _walk(message: Message, manifest: Manifest | None, path: str) -> None:
    own = _naming_field(message.DESCRIPTOR)
    if own and message.HasField(own):
        manifest = None  # What it names is another model's, which the technique's rules know.
    for check in _checks(message.DESCRIPTOR):
        check(message, manifest, path)


@cache
def _naming_field(descriptor: Descriptor) -> str:
    """The field that says whose layers and classes a message names; empty where there is none."""
    named = (f.name for f in descriptor.fields if f.GetOptions().Extensions[bounds_pb2.bounds].names_model)
    return next(named, "")


@cache
def _checks(descriptor: Descriptor) -> tuple[Check, ...]:
    """The checks of a message of this type, read from its options once."""
    oneofs = [
        _one_required(oneof.name, [arm.name for arm in oneof.fields])
        for oneof in descriptor.oneofs
        if oneof.GetOptions().Extensions[bounds_pb2.one_required]
    ]
    return (*oneofs, *(_field(field) for field in descriptor.fields))


def _one_required(name: str, arms: Sequence[str]) -> Check:
    def check(message: Message, _: Manifest | None, path: str) -> None:
        if message.WhichOneof(name) is None:
            raise InvalidArgument.of(_join(path, name), "nothing", f"one of {', '.join(arms)}")

    return check


def _field(field: FieldDescriptor) -> Check:
    bounds = field.GetOptions().Extensions[bounds_pb2.bounds]
    count = Limits.of(bounds, REPEATED)
    if field.message_type and field.message_type.GetOptions().map_entry:
        return _map(field, count)
    check_value = _value(field, bounds)

    def check_one(message: Message, manifest: Manifest | None, path: str) -> None:
        here = _join(path, field.name)
        _fill(message, field, bounds, here)
        if not field.has_presence or message.HasField(field.name):
            check_value(getattr(message, field.name), manifest, here)

    def check_all(message: Message, manifest: Manifest | None, path: str) -> None:
        here, values = _join(path, field.name), getattr(message, field.name)
        count.check(len(values), f"{len(values)} items", here)
        for position, value in enumerate(values):
            check_value(value, manifest, f"{here}[{position}]")

    return check_all if field.is_repeated else check_one


def _map(field: FieldDescriptor, count: Limits) -> Check:
    """Of a map, the number of its entries; what may stand in them, the servicer knows."""

    def check(message: Message, _: Manifest | None, path: str) -> None:
        size = len(getattr(message, field.name))
        count.check(size, f"{size} items", _join(path, field.name))

    return check


def _fill(message: Message, field: FieldDescriptor, bounds: bounds_pb2.Bounds, path: str) -> None:
    """Put the default in the place of what is absent, or refuse when there must be something."""
    if message.HasField(field.name) if field.has_presence else getattr(message, field.name):
        return
    if bounds.HasField("default"):
        kind = float if field.type in FLOATS else int
        setattr(message, field.name, kind(bounds.default))
    elif bounds.filled:
        getattr(message, field.name).SetInParent()
    elif bounds.required:
        raise InvalidArgument.of(path, "nothing", "given")


def _value(field: FieldDescriptor, bounds: bounds_pb2.Bounds) -> Callable[[Any, Manifest | None, str], None]:
    """The check of one value; the numbers in a repeated field's bounds are about its count."""
    if field.message_type:
        return _resized if bounds.short_side else _walk
    limits = Limits.of(bounds_pb2.Bounds() if field.is_repeated else bounds, field.type)
    names = {value.number: value.name for value in field.enum_type.values} if field.enum_type else {}

    def text(value: str, manifest: Manifest | None, path: str) -> None:
        limits.check(len(value), value, path)
        if bounds.layer and value and manifest is not None:
            manifest.layer(value, path)

    def data(value: bytes, _: Manifest | None, path: str) -> None:
        limits.check(len(value), f"{len(value)} bytes", path)

    def enum(value: int, _: Manifest | None, path: str) -> None:
        if value not in names:
            raise InvalidArgument.of(path, value, f"one of {', '.join(names.values())}")

    def number(value: float, manifest: Manifest | None, path: str) -> None:
        if not math.isfinite(value):
            raise InvalidArgument.of(path, value, "a finite number")
        limits.check(value, value, path)
        if bounds.class_index and manifest is not None and not 0 <= value < len(manifest.labels):
            last = len(manifest.labels) - 1
            raise InvalidArgument.of(path, value, f"between 0 and {last}, the last class of {manifest.name}")

    checks: dict[int, Callable[[Any, Manifest | None, str], None]] = {
        FieldDescriptor.TYPE_STRING: text,
        FieldDescriptor.TYPE_BYTES: data,
        FieldDescriptor.TYPE_ENUM: enum,
    }
    return checks.get(field.type, number)


def _resized(image: Any, manifest: Manifest | None, path: str) -> None:
    """Check an encoded image that is cut to the model's short side unless it says otherwise."""
    if image.WhichOneof("source") == "encoded" and not image.resize.WhichOneof("mode"):
        image.resize.short_side.SetInParent()
    _walk(image, manifest, path)


@dataclass(frozen=True)
class Limits:
    """The numbers of a `Bounds`, for a value, a length or a count."""

    low: float
    high: float
    exclusive_low: bool
    allowed: str

    @classmethod
    def of(cls, bounds: bounds_pb2.Bounds, kind: int) -> Limits:
        """The limits of a field of that descriptor type."""
        # 1.05 as a float is a little less than 1.05: compare with the bound as the wire would carry it.
        rounded = (lambda x: float(np.float32(x))) if kind == FieldDescriptor.TYPE_FLOAT else float
        return cls(
            low=rounded(bounds.min) if bounds.HasField("min") else -math.inf,
            high=rounded(bounds.max) if bounds.HasField("max") else math.inf,
            exclusive_low=bounds.exclusive_min,
            allowed=_allowed(bounds) + UNITS.get(kind, ""),
        )

    def check(self, size: float, shown: object, path: str) -> None:
        """Refuse a `size` outside the limits, showing the value as `shown`."""
        if size < self.low or size > self.high or (self.exclusive_low and size == self.low):
            raise InvalidArgument.of(path, shown, self.allowed)


def _allowed(bounds: bounds_pb2.Bounds) -> str:
    low = f"{'above' if bounds.exclusive_min else 'at least'} {_plain(bounds.min)}"
    high = f"at most {_plain(bounds.max)}"
    if not bounds.HasField("max"):
        return low
    if not bounds.HasField("min"):
        return high
    if bounds.exclusive_min:
        return f"{low} and {high}"
    return f"between {_plain(bounds.min)} and {_plain(bounds.max)}"


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
