"""`convlens adversarial`: attacks that iterate, as jobs; one file a command."""

from __future__ import annotations

import typer

from convlens_client.cli.adversarial import (
    carlini_wagner,
    defence,
    ensemble,
    expectation,
    lbfgs,
    patch,
    printed,
    substitute,
    transfer,
)

app = typer.Typer(no_args_is_help=True, help="Attacks that iterate, run by the workers.")
app.command("lbfgs")(lbfgs.lbfgs)
app.command("carlini-wagner")(carlini_wagner.carlini_wagner)
app.command("defence")(defence.defence)
app.command("ensemble")(ensemble.ensemble)
app.command("transfer")(transfer.transfer)
app.command("substitute")(substitute.substitute)
app.command("expectation")(expectation.expectation)
app.command("patch")(patch.patch)
app.command("printed")(printed.printed)
