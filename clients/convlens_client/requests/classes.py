"""Classes by index, by name or by a part of it: names are looked up in the labels of the model that is asked.

A method whose arguments name a class first asks for the model, and builds its request with the indices. A
class is found by its identifier in WordNet, too: the model has it beside its label, or in it ("n02123045
tabby").
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Generator, Mapping
from typing import Any, Final, ParamSpec, TypeVar

from convlens_client.calls import Rpc, Steps
from convlens_client.requests.model import get_model
from convlens_client.requests.target import Target
from convlens_client.results import Model

P = ParamSpec("P")
T = TypeVar("T")

CLASSES: Final = frozenset(("target", "targets", "labels"))
"""Arguments whose texts are classes; elsewhere, classes stand in targets such as `ClassScore("tabby")`."""


def by_name(build: Callable[P, Rpc[T]]) -> Callable[P, Rpc[T]]:
    """A decorator: the function's arguments may name classes."""
    signature = inspect.signature(build)

    @functools.wraps(build)
    def asked(*args: P.args, **kwargs: P.kwargs) -> Rpc[T]:
        model: Any = kwargs.get("model", "")
        given = _bound(signature, args, kwargs)
        if not any(_names(value, name in CLASSES) for name, value in given.items()):
            return build(*args, **kwargs)
        return Steps(_looked_up(build, signature, model, args, kwargs))

    return asked


def _bound(signature: inspect.Signature, args: Any, kwargs: Any) -> Mapping[str, Any]:
    """The arguments by name; nothing where they do not fit, which the function itself complains about."""
    try:
        return signature.bind_partial(*args, **kwargs).arguments
    except TypeError:
        return {}


def _looked_up(
    build: Callable[..., Rpc[T]], signature: inspect.Signature, model: str, args: Any, kwargs: Any
) -> Generator[Rpc[Any], Any, T]:
    known: Model = yield get_model(model)
    given = signature.bind_partial(*args, **kwargs)
    for name, value in given.arguments.items():
        given.arguments[name] = _indexed(value, known, name in CLASSES)
    result: T = yield build(*given.args, **given.kwargs)
    return result


def _names(value: Any, classes: bool) -> bool:
    """Whether a class is named in an argument; `classes` says that its texts are classes."""
    match value:
        case str():
            return classes
        case Target():
            return isinstance(getattr(value, "index", None), str)
        case Mapping() | list() | tuple():
            return any(_names(item, classes) for item in value)
    return False


def _indexed(value: Any, model: Model, classes: bool) -> Any:
    """The argument with indices in the place of names."""
    if not _names(value, classes):
        return value
    match value:
        case str():
            return model.class_index(value)
        case Target():
            name: Any = getattr(value, "index", None)
            return dataclasses.replace(value, index=model.class_index(name))  # type: ignore[call-arg]
        case Mapping():
            return {_indexed(key, model, classes): weight for key, weight in value.items()}
    return type(value)(_indexed(item, model, classes) for item in value)
