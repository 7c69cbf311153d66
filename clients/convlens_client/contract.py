"""What requests may say, read from the contract: names, types, ranges, defaults and comments of the protos.

A parameter is a field that holds numbers, text, a switch or a choice, also one of an inner message that holds
nothing else, such as `Transforms`; images and models are none. So a parameter that is added to a proto is an
argument of the client's method and an option of its command without a line of code here.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from convlens.errors import InvalidArgument
from convlens.v1 import bounds_pb2, model_pb2

Descriptor: TypeAlias = Any
"""A descriptor of a message, an enum or a field; the stubs of protobuf have two classes for each of them."""
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

TYPES: Final[dict[int, type]] = {
    FieldDescriptor.CPPTYPE_BOOL: bool,
    FieldDescriptor.CPPTYPE_FLOAT: float,
    FieldDescriptor.CPPTYPE_DOUBLE: float,
    FieldDescriptor.CPPTYPE_INT32: int,
    FieldDescriptor.CPPTYPE_INT64: int,
    FieldDescriptor.CPPTYPE_ENUM: str,
    FieldDescriptor.CPPTYPE_STRING: str,
}
LARGEST_SHOWN: Final = 1e9
"""Ranges that go further, as those of seeds, are not worth telling."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a message: what its field in the contract says of it."""

    field: Descriptor

    @property
    def name(self) -> str:
        """Name of the field, and of the argument."""
        return str(self.field.name)

    @property
    def type(self) -> type:
        """Type of the value, or of each value of a repeated field; text for enums."""
        return TYPES[self.field.cpp_type]

    @property
    def choices(self) -> tuple[str, ...]:
        """What the enum's values are called, such as "linf"; empty where the field is no enum."""
        return tuple(values(self.field.enum_type)) if self.field.enum_type else ()

    @property
    def repeated(self) -> bool:
        """True for a field that takes any number of values."""
        return bool(self.field.is_repeated)

    @property
    def weighted(self) -> bool:
        """True where each value may have a weight: `layers` of a message that also has `weights`."""
        others = self.field.containing_type.fields_by_name
        return self.repeated and self.name == "layers" and "weights" in others

    @property
    def help(self) -> str:
        """The first sentence of the comment, with range and default as the server has them."""
        limits = bounds(self.field)
        unsaid = self.name.replace("_", " ").capitalize()
        text = comments().get(f"{self.field.containing_type.name}.{self.name}", unsaid)
        default = limits.default_text or (written(limits.default) if limits.HasField("default") else "")
        if default:
            text = re.sub(r"\. Default [\d./]*\d[^.]*|[;,] default [\d./]*\d", "", text)
        text = re.split(r"(?<=[^.]{2})\. (?=[A-Z])", text.removesuffix("."))[0]
        facts = [*self._range(limits), *([f"default: {default}"] if default else [])]
        return f"{text}.  [{'; '.join(facts)}]" if facts else f"{text}."

    @property
    def argument(self) -> inspect.Parameter:
        """The keyword argument that stands for it in a signature."""
        annotation = f"Literal{list(self.choices)}" if self.choices else self.type.__name__
        default: Any = None
        if self.weighted:
            annotation, default = "Mapping[str, float] | Sequence[str]", ()
        elif self.repeated:
            annotation, default = f"{annotation} | Sequence[{annotation}]", ()
        elif self.type is bool:
            default = False
        else:
            annotation += " | None"
        return inspect.Parameter(
            self.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
        )

    def _range(self, limits: bounds_pb2.Bounds) -> Iterable[str]:
        number = self.type in (int, float) and not self.repeated
        if number and limits.HasField("max") and limits.max < LARGEST_SHOWN:
            least = f"{'above ' if limits.exclusive_min else ''}{written(limits.min)}"
            yield f"{least} to {written(limits.max)}"


def parameters(message: Descriptor) -> dict[str, Parameter]:
    """The parameters of a message by name; where an inner message has the same name, the outer's counts."""
    own = {field.name: Parameter(field) for field in message.fields if field.cpp_type in TYPES}
    if "layers" in own and own["layers"].weighted:
        own.pop("weights", None)
    inner = (parameters(field.message_type) for field in _groups(message))
    return {name: parameter for group in inner for name, parameter in group.items()} | own


def fill(message: Message, given: Mapping[str, Any]) -> None:
    """Set parameters and fields of a message by name; what is None is left out.

    Choices are given by name, also with dashes, a repeated field as a sequence or as its only value, and
    `layers` also as a mapping to their weights.

    Raises:
        InvalidArgument: there is no such choice.
        TypeError: there is no such parameter.
    """
    for name, value in given.items():
        field = message.DESCRIPTOR.fields_by_name.get(name)
        if value is None:
            continue
        if field is None:
            groups = [each for each in _groups(message.DESCRIPTOR) if name in parameters(each.message_type)]
            if not groups:
                known = ", ".join(parameters(message.DESCRIPTOR))
                raise TypeError(f"{message.DESCRIPTOR.name} takes no {name!r}, but {known}")
            fill(getattr(message, groups[0].name), {name: value})
        elif field.is_repeated:
            items = [value] if isinstance(value, (str, int, float)) else value
            getattr(message, name).extend(_plain(field, item) for item in items)
            if isinstance(value, Mapping):
                message.weights.extend(value.values())  # type: ignore[attr-defined]
        elif field.message_type:
            getattr(message, name).CopyFrom(value)
        else:
            setattr(message, name, _plain(field, value))


def arms(message: Descriptor, oneof: str = "technique") -> dict[str, Descriptor]:
    """The messages that a oneof offers, by the name of their field: every technique that there is."""
    return {field.name: field.message_type for field in message.oneofs_by_name[oneof].fields}


def choose(message: Message, name: str, given: Mapping[str, Any], field: str = "technique") -> None:
    """Put a technique with its parameters into a message's oneof.

    Raises:
        InvalidArgument: there is no such technique, in either spelling, which the error calls `field`, or no
            such parameter.
    """
    techniques = arms(message.DESCRIPTOR)
    name = spelled(name) if spelled(name) in techniques else name
    known = parameters(one_of(techniques, name, field))
    given = {key: value for key, value in given.items() if value is not None}
    for key, value in given.items():
        if key not in known:
            raise InvalidArgument.of(
                key, value, f"left out with {name}: {name} takes {', '.join(known) or 'nothing'}"
            )
    technique = getattr(message, name)
    technique.SetInParent()
    fill(technique, given)


def one_of(known: Mapping[str, T], name: str, field: str) -> T:
    """The value of a name. Raises InvalidArgument, which says what there is."""
    if name not in known:
        raise InvalidArgument.of(field, name, f"one of {', '.join(known)}")
    return known[name]


def spelled(name: str) -> str:
    """A technique's name as the contract spells it: "guided-backprop" is "guided_backprop"."""
    return name.replace("-", "_")


def values(enum: Descriptor) -> dict[str, int]:
    """The numbers of an enum's values by their short names: "l2" for NORM_L2."""
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return {value.name.removeprefix(prefix).lower(): value.number for value in enum.values if value.number}


def takes(
    messages: Mapping[str, Descriptor], *, without: Iterable[str] = (), more: Iterable[inspect.Parameter] = ()
) -> Callable[[F], F]:
    """A decorator: the function's `**parameters` are those of the messages; help() shows them with types.

    A type checker sees `**parameters: Any`: it checks the other arguments, and the parameters are checked
    against the contract when the function is called. The attribute `parameters` has, by name, each parameter
    of each technique that has one.

    Args:
        messages: by the names of the techniques among which the function chooses.
        without: names of parameters that the function sets itself.
        more: arguments to show behind them.
    """
    known: dict[str, dict[str, Parameter]] = {}
    for technique, message in messages.items():
        for name, parameter in parameters(message).items():
            known.setdefault(name, {})[technique] = parameter

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
        taken = {each.name for each in own} | set(without)
        described: Any = function
        described.parameters = {name: each for name, each in known.items() if name not in taken}
        arguments = [next(iter(each.values())).argument for each in described.parameters.values()]
        described.__signature__ = signature.replace(parameters=[*own, *arguments, *more])
        return function

    return decorate


def help_among(techniques: Mapping[str, Parameter]) -> str:
    """The help of a parameter that several techniques have: which of them means what by it."""
    names: dict[str, list[str]] = {}
    for name, parameter in techniques.items():
        names.setdefault(parameter.help, []).append(name.replace("_", "-"))
    return " ".join(f"{', '.join(owners)}: {text}" for text, owners in names.items())


def bounds(field: Descriptor) -> bounds_pb2.Bounds:
    """What the server accepts in a field, and takes where it is absent."""
    limits: bounds_pb2.Bounds = field.GetOptions().Extensions[bounds_pb2.bounds]
    return limits


@functools.cache
def comments() -> dict[str, str]:
    """The comment of each field, by "Message.field"; `make proto` writes them beside the generated code."""
    text = Path(bounds_pb2.__file__).with_name("comments.json").read_text("utf-8")
    return dict(json.loads(text))


def written(number: float) -> str:
    """A number as people write it: 8/255 for 0.0313725."""
    levels = number * 255
    if 0 < number < 1 and abs(levels - round(levels)) < 1e-6 and f"{number:.4g}" != f"{number:.9g}":
        return f"{round(levels)}/255"
    return f"{number:g}" if abs(number) < 1e5 else f"{number:,.0f}"


def _groups(message: Descriptor) -> list[Descriptor]:
    """The fields of messages that hold parameters alone, such as `Transforms`."""
    return [
        field
        for field in message.fields
        if field.message_type not in (None, model_pb2.ModelRef.DESCRIPTOR)
        and not (field.is_repeated or field.containing_oneof)
        and field.message_type.fields
        and all(inner.cpp_type in TYPES and not inner.is_repeated for inner in field.message_type.fields)
    ]


def _plain(field: Descriptor, value: Any) -> Any:
    """The number of a choice; every other value as it is."""
    if isinstance(value, str) and bounds(field).class_index:
        raise InvalidArgument.of(field.name, value, "an index; names are looked up by the client's methods")
    if field.enum_type and isinstance(value, str):
        return one_of(values(field.enum_type), value.lower().replace("-", "_"), field.name)
    return value
