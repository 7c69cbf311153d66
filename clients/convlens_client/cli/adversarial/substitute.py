"""`convlens adversarial substitute`: a copy of a model from its answers alone, and attacks on the copy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from convlens_client.cli.adversarial.common import ATTACK
from convlens_client.cli.common import Photos, out, photos_in, table
from convlens_client.cli.following import finish
from convlens_client.cli.options import Shared, command
from convlens_client.client import Operation
from convlens_client.requests import adversarial


@command("seed", *ATTACK, request=adversarial.substitute)
def substitute(
    given: Shared,
    pictures: Photos,
    *,
    held_out: Annotated[
        list[Path], typer.Option(help="Photo or folder to judge by; repeat for several.", show_default=False)
    ],
    **parameters: Any,
) -> None:
    """Learn a copy of a model from its answers alone, and fool the model by attacks on the copy."""
    operation = given.client.substitute(photos_in(pictures), photos_in(held_out), **parameters)
    finish(given, operation, "fooled.png", artifact="adversarial", tell=tell)


def tell(operation: Operation) -> None:
    """Prints how good the copy is after each round, and what the attacks on it do to the victim."""
    report = operation.report
    rows = ((str(after), f"{share:.1%}") for after, share in enumerate(report.agreement))
    table(("round", " says as the victim"), rows)
    out.print(f"queries: {report.queries} to learn, {report.measuring_queries} to measure")
    out.print(
        f"fooled by the attack: the copy {report.white_box:.1%}, the victim {report.transfer:.1%};"
        f" by noise as long: the victim {report.noise_transfer:.1%}"
    )
