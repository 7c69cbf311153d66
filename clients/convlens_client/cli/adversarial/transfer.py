"""`convlens adversarial transfer`: how attacks on one model fare on the others."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from convlens_client.cli.adversarial.common import ATTACK
from convlens_client.cli.common import Photos, photos_in
from convlens_client.cli.following import finish
from convlens_client.cli.labels import Labelled
from convlens_client.cli.options import command
from convlens_client.requests import adversarial


@command("seed", *ATTACK, request=adversarial.transfer_matrix)
def transfer(
    given: Labelled,
    pictures: Photos,
    *,
    to: Annotated[
        list[str] | None,
        typer.Option(help="Other model, repeat for several; default: all with the same classes."),
    ] = None,
    **parameters: Any,
) -> None:
    """Attack each model, and ask all of them: which attacks transfer, beside noise of the same length.

    Example: convlens adversarial transfer photos --labels-from-names --to squeezenet1_0
    """
    paths = photos_in(pictures)
    operation = given.client.transfer_matrix(paths, given.classes(paths), models=to or (), **parameters)
    finish(given, operation, "transfer.png")
