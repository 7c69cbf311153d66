"""The page of the command line, from the tree of its commands and their own help."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from enum import Enum
from functools import cache
from importlib.metadata import entry_points
from types import NoneType
from typing import Any, Final, Literal, NamedTuple, get_args, get_origin

import typer
from docs.generate.markdown import code, number, prose, titled, wide_table
from typer.utils import get_params_from_function

from convlens_client.cli import app
from convlens_client.cli.plugins import GROUP

INTRODUCTION: Final = """\
Every command and option, as `convlens COMMAND --help` shows them.
[From the command line](../guides/command-line.md) explains them by examples. The exit code is 0 for success,
2 for bad input, 1 for any other failure, and 130 when Ctrl-C has stopped a job.
"""


class Command(NamedTuple):
    """A command with its full name, such as "convlens jobs list"."""

    name: str
    command: Any


def page() -> str:
    """The reference page of the command line, as Markdown."""
    head = titled("Command line", "the command line's own help")
    return "\n".join((head, INTRODUCTION, *map(_section, commands())))


@cache
def by_variable() -> dict[str, list[tuple[str, str]]]:
    """The commands and options that read each environment variable, without the server's address."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name, command in commands():
        for parameter in command.params:
            if parameter.envvar and parameter.envvar != "CONVLENS_SERVER":
                found[parameter.envvar].append((name, parameter.opts[0]))
    return found


@cache
def commands() -> tuple[Command, ...]:
    """All commands, in the order of the help, with those that other packages mount as they are themselves."""
    return tuple(_walk(Command("convlens", typer.main.get_command(app))))


def _walk(found: Command) -> Iterator[Command]:
    mounted = {
        f"convlens {point.name.partition('.')[0]} {point.attr}": point for point in entry_points(group=GROUP)
    }
    for name, command in found.command.commands.items():
        here = Command(f"{found.name} {name}", command)
        if hasattr(command, "commands"):
            yield from _walk(here)
        elif here.name in mounted:
            alone = typer.Typer(add_completion=False)
            alone.command()(mounted[here.name].load())
            yield Command(here.name, typer.main.get_command(alone))
        else:
            yield here


def _section(found: Command) -> str:
    arguments = [item for item in found.command.params if item.param_type_name == "argument"]
    options = [item for item in found.command.params if item.param_type_name == "option" and not item.hidden]
    usage = " ".join([found.name, *(["[OPTIONS]"] if options else []), *map(_usage, arguments)])
    annotations = get_params_from_function(found.command.callback.__wrapped__)
    rows = [_row(item, annotations.get(item.name)) for item in (*arguments, *options)]
    listed = wide_table(("argument or option", "value", "default", "meaning"), rows)
    return f"## {found.name}\n\n{prose(found.command.help or '')}\n\n    {usage}\n\n{listed}"


def _usage(argument: Any) -> str:
    name = _metavar(argument) + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _row(parameter: Any, known: Any) -> tuple[str, ...]:
    named = parameter.param_type_name == "option"
    names = ", ".join(
        map(code, (*parameter.opts, *parameter.secondary_opts) if named else (_metavar(parameter),))
    )
    variable = f" Environment: {code(parameter.envvar)}." if parameter.envvar else ""
    return names, _value(parameter, known), _default(parameter), prose(parameter.help or "") + variable


def _value(parameter: Any, known: Any) -> str:
    if getattr(parameter, "is_flag", False):
        return "flag"
    kind = known.annotation if known else str
    several = parameter.multiple or parameter.nargs == -1
    while get_args(kind) and get_origin(kind) is not Literal:
        kind = next(arm for arm in get_args(kind) if arm is not NoneType)
    if isinstance(kind, type) and issubclass(kind, Enum):
        shown = ", ".join(code(choice.value) for choice in kind)
    elif get_origin(kind) is Literal:
        shown = ", ".join(map(code, get_args(kind)))
    elif parameter.metavar and parameter.param_type_name == "option":
        shown = code(parameter.metavar)
    else:
        shown = {int: "integer", float: "number", str: "text"}.get(kind, "path") + _limits(known)
    return shown + (", several" if several else "")


def _limits(known: Any) -> str:
    low, high = (getattr(known.default, name, None) for name in ("min", "max"))
    return (f", at least {number(low)}" if low is not None else "") + (
        f", at most {number(high)}" if high is not None else ""
    )


def _default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required:
        return "required"
    if value is None or callable(value) or getattr(parameter, "is_flag", False) or value in ("", (), []):
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(code(_shown(item)) for item in value)
    return code(_shown(value))


def _shown(value: Any) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    return number(value) if isinstance(value, float) else str(value)
