"""`convlens adversarial defence`: what a defence is worth once the attacker knows of it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from convlens_client.cli.adversarial.common import ATTACK
from convlens_client.cli.common import Photos, photos_in
from convlens_client.cli.following import finish
from convlens_client.cli.labels import Labelled
from convlens_client.cli.options import command
from convlens_client.requests import adversarial


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
    """Attack a defended model plainly, and by BPDA, which goes through the defence (Athalye et al. 2018).

    Example: convlens adversarial defence photos --labels-from-names --defence jpeg
    """
    paths = photos_in(pictures)
    operation = given.client.defence_attack(
        paths, given.classes(paths), kind, strength=strength, **parameters
    )
    finish(given, operation, "defence.png")
