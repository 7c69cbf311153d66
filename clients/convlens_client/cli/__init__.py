"""The command line of ConvLens: `convlens --help`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

# gRPC logs each reconnection to stderr otherwise; the errors tell what matters.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from convlens.errors import (
    AlreadyExists,
    ConvLensError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from convlens.text import printable
from convlens_client.cli import jobs, models, plugins

BAD_INPUT = (InvalidArgument, NotFound, AlreadyExists, FailedPrecondition)

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda token: token.replace("_", "-"),  # Both spellings, as in Python.
    },
    help="See what a convolutional network has learned and what it responds to.",
)
plugins.add_modules(app, __name__)
keys = typer.Typer(no_args_is_help=True, help="API keys of a server.")
app.add_typer(keys, name="keys")
plugins.mount({"models": models.app, "jobs": jobs.app, "keys": keys})


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("convlens"))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    """Options of `convlens` itself."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; one line on stderr and exit code 2 for bad input, 1 for any other failure."""
    try:
        app(arguments)
    except ConvLensError as error:
        message = printable(" ".join(str(error).split()))
        if isinstance(error, Unavailable):
            message += " (is there a server? start one with 'convlens up', or name it with --server)"
        notes = map(printable, getattr(error, "__notes__", []))
        typer.echo("\n  ".join([f"convlens: {message}", *notes]), err=True)
        sys.exit(2 if isinstance(error, BAD_INPUT) else 1)
