"""Where commands come from: the modules of this package, and other packages of ConvLens.

A module brings the command that its function of its own name is, or a group of commands: its `app`.
An entry point `models.add = "package.module:add"` of the group "convlens.commands" makes the function `add`
the command `convlens models add`. It is loaded when it is called and not before, as it may need what the thin
client lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from inspect import isfunction
from pkgutil import iter_modules
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand

from convlens.errors import FailedPrecondition
from convlens_client.cli import adding

GROUP = "convlens.commands"
ORDER = "convlens.order"
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
EXAMPLES = {
    "add": "convlens models add squeezenet1_0 --weights squeezenet1_0.safetensors --labels imagenet",
    "available": "convlens models available",
    "new": "convlens keys new keys.json --tenant alice",
}
HELP = {
    "add": "Add a network to the repository.",
    "available": "List the networks that can be had, and from where.",
    "new": "Make an API key.",
}
EXTRAS = {"models": "export", "keys": "server"}


class Elsewhere(NamedTuple):
    """The same command on a server: whether arguments mean it, what is run then, what help tells of it."""

    asked: Callable[[Sequence[str]], bool]
    run: Callable[..., None]
    note: str


ELSEWHERE = {
    "models.add": Elsewhere(
        adding.asks_server, adding.add, "To a server: convlens models add --server HOST:PORT --help. "
    )
}


class Ordered(TyperCommand):
    """A command that knows in which order its options were given: `context.meta[ORDER]` has their names."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses as every command, and notes the order."""
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        ctx.meta[ORDER] = [parameter.name for parameter in order]
        return super().parse_args(ctx, args)


def add_modules(app: typer.Typer, package: str) -> None:
    """Adds the command or the group of each module of a package."""
    for path in iter_modules(import_module(package).__path__):
        members = vars(import_module(f"{package}.{path.name}"))
        if isfunction(members.get(path.name)):
            app.command(cls=Ordered)(members[path.name])
        elif "app" in members:
            app.add_typer(members["app"], name=path.name)


def mount(groups: Mapping[str, typer.Typer]) -> None:
    """Adds a command to its group for each entry point."""
    for point in entry_points(group=GROUP):
        command = groups[_group(point)].command(
            point.attr, help=HELP.get(point.attr), context_settings=PASS_ON
        )
        command(_load_and_run(point))


def _group(point: EntryPoint) -> str:
    return point.name.partition(".")[0]


def _load_and_run(point: EntryPoint) -> Callable[[typer.Context], None]:
    def run(context: typer.Context) -> None:
        app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        elsewhere = ELSEWHERE.get(point.name)
        try:
            if elsewhere and elsewhere.asked(context.args):
                app.command()(elsewhere.run)
            else:
                example = EXAMPLES.get(point.attr)
                note = elsewhere.note if elsewhere else ""
                app.command(epilog=example and f"{note}Example: {example}")(point.load())
            app(context.args, prog_name=context.command_path)
        except ImportError as error:
            command, missing = context.command_path, error.name or error
            raise FailedPrecondition(
                f"{command} needs {missing}: pip install 'convlens[{EXTRAS[_group(point)]}]'"
            ) from error

    return run
