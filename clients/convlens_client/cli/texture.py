"""`convlens texture`: more of a texture."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from convlens_client.cli.common import Image, Side
from convlens_client.cli.following import finish
from convlens_client.cli.options import STEPWISE, Shared, command
from convlens_client.requests import synthesis


@command("seed", "frame", *STEPWISE, request=synthesis.texture)
def texture(
    given: Shared,
    sample: Image,
    *,
    adam: Annotated[bool, typer.Option("--adam", help="Adam instead of L-BFGS.")] = False,
    size: Side = None,
    **parameters: Any,
) -> None:
    """Make a picture with the texture of a sample, of any size. Ctrl-C cancels the job.

    Example: convlens texture pebbles.jpg --width 512 --height 384 --out more.png
    """
    operation = given.client.texture(given.picture(sample), adam=adam, resize=size or "keep", **parameters)
    finish(given, operation, f"{sample.stem}-texture.png")
