"""`convlens dream`: DeepDream, followed to its end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from convlens_client.cli.common import Image, Side
from convlens_client.cli.following import finish
from convlens_client.cli.options import STEPWISE, Shared, command
from convlens_client.requests import synthesis


@command("seed", "frame", *STEPWISE, request=synthesis.deepdream)
def dream(
    given: Shared,
    image: Image,
    *,
    guide: Annotated[Path | None, typer.Option(help="Picture whose features are to be dreamt of.")] = None,
    size: Side = None,
    **parameters: Any,
) -> None:
    """Amplify what a layer sees in a picture (DeepDream). Ctrl-C cancels the job.

    Of several --frames, --out x.webp writes a video, and other names the last frame.

    Example: convlens dream cat.jpg --size 512 --octaves 4 --out dream.png
    """
    operation = given.client.deepdream(given.picture(image), guide=guide, resize=size or "keep", **parameters)
    finish(given, operation, f"{image.stem}-dream.png")
