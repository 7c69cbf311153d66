"""`convlens adversarial defence`: what a defence is worth once the attacker knows of it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from convlens_client import rendering
from convlens_client.cli.adversarial.common import ATTACK
from convlens_client.cli.common import Photos, percent, photos_in, table
from convlens_client.cli.following import finish
from convlens_client.cli.labels import Labelled
from convlens_client.cli.options import command
from convlens_client.client import Operation
from convlens_client.rendering import Picture
from convlens_client.requests import adversarial
from convlens_client.results import Array


@command("seed", *ATTACK, request=adversarial.defence_attack)
def defence(
    given: Labelled,
    pictures: Photos,
    *,
    kind: Annotated[
        adversarial.DefenceName, typer.Option("--defence", help="What stands before the model.")
    ] = "jpeg",
    strength: Annotated[
        float | None,
        typer.Option(help="Quality (default 75), bits (3), or weight of the total variation (0.1)."),
    ] = None,
    **parameters: Any,
) -> None:
    """Attack a defended model plainly, and by BPDA, which goes through the defence (Athalye et al. 2018)."""
    paths = photos_in(pictures)
    operation = given.client.defence_attack(
        paths, given.classes(paths), kind, strength=strength, **parameters
    )
    finish(given, operation, "defence.png", draw=draw, tell=tell)


def draw(operation: Operation) -> tuple[Array, Picture]:
    """The images of BPDA; the first one, its change, and what the defended model sees in both."""
    certificate = operation.report.certificates[0]
    original, adversarial = (operation.artifact(name) for name in ("original", "adversarial"))
    gain = 0.5 / max(certificate.linf, 1e-9)
    change = rendering.photo(0.5 + gain * (adversarial[0] - original[0]))
    return adversarial, rendering.sheet(
        [
            (f"defended: {percent(certificate.before)}", rendering.photo(original[0])),
            (f"change x {gain:.3g}\nat most {certificate.linf * 255:.3g}/255", change),
            (f"defended: {percent(certificate.after)}", rendering.photo(adversarial[0])),
        ]
    )


def tell(operation: Operation) -> None:
    """Prints the accuracy that is left after each attack."""
    report = operation.report
    rows = (
        ("no attack, defended", report.clean_accuracy),
        ("plain PGD, not defended", report.undefended_accuracy),
        ("plain PGD, defended", report.plain_accuracy),
        ("BPDA, defended", report.accuracy),
    )
    table(("attack", " accuracy"), ((name, f"{share:.1%}") for name, share in rows))
