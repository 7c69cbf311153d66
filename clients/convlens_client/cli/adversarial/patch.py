"""`convlens adversarial patch`: a round patch that makes the model see one class wherever it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from convlens_client.cli.adversarial.common import ATTACK, Target
from convlens_client.cli.common import Photos, photos_in
from convlens_client.cli.following import finish
from convlens_client.cli.options import Shared, command
from convlens_client.requests import adversarial


@command("seed", *ATTACK, request=adversarial.adversarial_patch, spelled={"size": "diameter"})
def patch(
    given: Shared,
    pictures: Photos,
    *,
    target: Target,
    held_out: Annotated[
        list[Path] | None,
        typer.Option(help="Photo or folder to judge by, repeat for several; default: every fifth photo."),
    ] = None,
    **parameters: Any,
) -> None:
    """Learn a patch from photos that makes the model see a class on others too (Brown et al. 2017).

    Example: convlens adversarial patch photos --target dots --out patch.png
    """
    unseen = photos_in(held_out) if held_out else ()
    operation = given.client.adversarial_patch(
        photos_in(pictures), given.class_index(target), held_out=unseen, **parameters
    )
    finish(given, operation, f"{target}-patch.png")
