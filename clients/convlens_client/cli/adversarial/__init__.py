"""`convlens adversarial`: attacks that iterate, as jobs; one file a command."""

from __future__ import annotations

import typer

from convlens_client.cli.plugins import add_modules

app = typer.Typer(no_args_is_help=True, help="Attacks that iterate, run by the workers.")
add_modules(app, __name__)
