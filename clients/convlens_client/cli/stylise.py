"""`convlens stylise`: a photo painted by a style network."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from convlens_client import rendering
from convlens_client.cli import completion
from convlens_client.cli.common import Image, out, write
from convlens_client.cli.options import Shared, command


@command("out", "resize", "frame", "json", timeout=None)
def stylise(
    given: Shared,
    image: Image,
    *,
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", autocompletion=completion.models, help="Style network.", show_default=False
        ),
    ],
    tile: Annotated[
        int | None, typer.Option(help="Largest side painted at once; default 1024. Less memory, less unity.")
    ] = None,
    **parameters: Any,
) -> None:
    """Paint an image by one pass of a style network.

    Example: convlens stylise cat.jpg --model wave --out painted.png
    """
    painted = given.client.stylise(given.picture(image), model, tile=tile, **parameters)[0]
    height, width = painted.shape[1:]
    if not given.emitted({"model": model, "height": height, "width": width}):
        out.print(f"painted {height} x {width} pixels")
    write(given.file(f"{image.stem}-{model}.png", unasked=not given.json), painted, rendering.photo(painted))
