"""`convlens adversarial substitute`: a copy of a model from its answers alone, and attacks on the copy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from convlens_client.cli.adversarial.common import ATTACK
from convlens_client.cli.common import Photos, photos_in
from convlens_client.cli.following import finish
from convlens_client.cli.options import Shared, command
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
    """Learn a copy of a model from its answers alone, and fool the model by attacks on the copy.

    Example: convlens adversarial substitute photos --held-out others
    """
    operation = given.client.substitute(photos_in(pictures), photos_in(held_out), **parameters)
    finish(given, operation, "fooled.png")
