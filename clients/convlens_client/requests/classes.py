"""Classes by index, by name or by a part of it: names are looked up in the labels of the model that is asked.

A method whose arguments name a class first asks for the model, and builds its request with the indices. A
class is found by its identifier in WordNet, too: the model has it beside its label, or in it ("n02123045
tabby").
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, Final, ParamSpec, TypeVar

from convlens_client.calls import Rpc, Steps
from convlens_client.requests.model import get_model
from convlens_client.requests.target import Of, Target
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
        models = [each for name, value in given.items() for each in _models(value, name in CLASSES, model)]
        if not models:
            return build(*args, **kwargs)
        bound = signature.bind_partial(*args, **kwargs)
        return Steps(_looked_up(build, bound, model, dict.fromkeys(models)))

    return asked


def _bound(signature: inspect.Signature, args: Any, kwargs: Any) -> Mapping[str, Any]:
    """The arguments by name; nothing where they do not fit, which the function itself complains about."""
    try:
        return signature.bind_partial(*args, **kwargs).arguments
    except TypeError:
        return {}


def _looked_up(
    build: Callable[..., Rpc[T]], given: inspect.BoundArguments, model: str, models: Iterable[str]
) -> Generator[Rpc[Any], Any, T]:
    known: dict[str, Model] = {}
    for each in models:
        known[each] = yield get_model(each)
    for name, value in given.arguments.items():
        given.arguments[name] = _indexed(value, known, name in CLASSES, model)
    result: T = yield build(*given.args, **given.kwargs)
    return result


def _models(value: Any, classes: bool, model: str) -> Iterator[str]:
    """The models a class of which is named in an argument; `classes` says that its texts are classes."""
    match value:
        case str() if classes:
            yield model
        case Of():
            yield from _models(value.what, classes, value.model)
        case Target() if isinstance(getattr(value, "index", None), str):
            yield model
        case Mapping() | list() | tuple():
            for item in value:
                yield from _models(item, classes, model)


def _indexed(value: Any, known: Mapping[str, Model], classes: bool, model: str) -> Any:
    """The argument with indices in the place of names."""
    if not list(_models(value, classes, model)):
        return value
    match value:
        case str():
            return known[model].class_index(value)
        case Of():
            return Of(value.model, _indexed(value.what, known, classes, value.model))
        case Target():
            name: Any = getattr(value, "index", None)
            return dataclasses.replace(value, index=known[model].class_index(name))  # type: ignore[call-arg]
        case Mapping():
            return {_indexed(key, known, classes, model): weight for key, weight in value.items()}
    return type(value)(_indexed(item, known, classes, model) for item in value)
