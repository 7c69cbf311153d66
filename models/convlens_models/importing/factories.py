"""Networks that a user's code, timm or torchvision builds: "module:function", and what is known of them."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from torch import Tensor, nn

from convlens.errors import InvalidArgument
from convlens_models.importing.weights import aligned
from convlens_models.manifest import Rgb

FIELD: Final = "torch"
ALLOWED: Final = "module:function, timm:NAME or torchvision:NAME, and perhaps (keyword=value, ...)"


class Factory(NamedTuple):
    """A function that builds a network."""

    module: str
    function: str
    arguments: dict[str, Any]

    @property
    def name(self) -> str:
        """What the network is called unless the user says so."""
        return self.function.rpartition(".")[2].lower()


class Preprocessing(NamedTuple):
    """What a network expects, so far as it says so."""

    mean: Rgb | None = None
    std: Rgb | None = None
    size: int | None = None


def parse(text: str) -> Factory:
    """The factory that `text` names; its arguments are literals.

    Raises:
        InvalidArgument: it is of another form.
    """
    target, bracket, rest = text.partition("(")
    module, colon, function = target.strip().partition(":")
    try:
        call = ast.parse(f"f({rest}" if bracket else "f()", mode="eval").body
        if not (isinstance(call, ast.Call) and not call.args and module and colon and function):
            raise ValueError(text)
        arguments = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
    except (ValueError, SyntaxError) as error:
        raise InvalidArgument.of(FIELD, text, ALLOWED) from error
    return Factory(module, function, arguments)


def build(factory: Factory, state: Mapping[str, Tensor] | None) -> nn.Module:
    """The module that `factory` builds; of timm and torchvision with as many classes as `state` has.

    Modules are looked for in the working folder, too.

    Raises:
        InvalidArgument: there is no such function, it fails, it makes something else, or a network of timm or
            torchvision is to come without weights.
    """
    if factory.module in NAMED and state is None:
        text = f"{FIELD}: {factory.module}:{factory.function} has random weights; give --weights FILE"
        raise InvalidArgument(text, field=FIELD)
    module = _run(factory)
    classes = _classes(module, state) if state and factory.module in NAMED else None
    if classes is not None and "num_classes" not in factory.arguments:
        module = _run(factory._replace(arguments={**factory.arguments, "num_classes": classes}))
    return module


def first_line(error: Exception) -> str:
    """The first line of the text of an error that others raised, behind its kind."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}"


def preprocessing(module: nn.Module) -> Preprocessing:
    """What timm has written on its networks."""
    known = getattr(module, "pretrained_cfg", None)
    if not isinstance(known, Mapping):
        return Preprocessing()
    _, height, width = known.get("input_size", (3, 0, 0))
    return Preprocessing(known.get("mean"), known.get("std"), height if height and height == width else None)


def _run(factory: Factory) -> nn.Module:
    name = f"{factory.module}:{factory.function}"
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        made: Any
        if named := NAMED.get(factory.module):
            made = named(factory.function, factory.arguments)
        else:
            made = importlib.import_module(factory.module)
            for part in factory.function.split("."):
                made = getattr(made, part)
            made = made if isinstance(made, nn.Module) else made(**factory.arguments)
    except Exception as error:  # Whatever is raised by code that others wrote.
        text = f"{FIELD}: {name} fails: {first_line(error)}"
        raise InvalidArgument(text, field=FIELD) from error
    if not isinstance(made, nn.Module):
        made_one = f"{name}, which makes a {type(made).__name__}"
        raise InvalidArgument.of(FIELD, made_one, "one that makes a torch.nn.Module")
    return made


def _of_timm(name: str, arguments: Mapping[str, Any]) -> object:
    return importlib.import_module("timm").create_model(name, **{"pretrained": False, **arguments})


def _of_torchvision(name: str, arguments: Mapping[str, Any]) -> object:
    return importlib.import_module("torchvision.models").get_model(name, **{"weights": None, **arguments})


NAMED: Final = {"timm": _of_timm, "torchvision": _of_torchvision}
"""Libraries whose networks are called by their names."""


def _classes(module: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """How many classes `state` has, where it differs from `module` in nothing but that."""
    expected = module.state_dict()
    found = aligned(state, expected)
    shapes = [(value.shape, found[key].shape) for key, value in expected.items() if key in found]
    other = [(ours, theirs) for ours, theirs in shapes if ours != theirs]
    counts = {theirs[0] if theirs and ours[1:] == theirs[1:] else 0 for ours, theirs in other}
    return counts.pop() or None if len(counts) == 1 else None
