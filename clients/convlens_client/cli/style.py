"""`convlens stylise`: a photo painted by a style network."""

from __future__ import annotations

from typing import Annotated

import typer

from convlens_client import rendering
from convlens_client.cli.common import (
    Image,
    Json,
    Out,
    Resize,
    Server,
    Tls,
    connect,
    emit,
    out,
    resize,
    write,
)


def stylise(
    image: Image,
    *,
    model: Annotated[str, typer.Option("--model", "-m", help="Style network.", show_default=False)],
    tile: Annotated[
        int | None, typer.Option(help="Largest side painted at once; default 1024. Less memory, less unity.")
    ] = None,
    file: Out = None,
    size: Resize = None,
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Paint an image by one pass of a style network."""
    with connect(server, tls, timeout=None) as client:
        painted = client.stylise(image, model, tile=tile, resize=resize(size))[0]
    height, width = painted.shape[1:]
    if json:
        emit({"model": model, "height": height, "width": width})
    else:
        out.print(f"painted {height} x {width} pixels")
    write(file, painted, rendering.photo(painted))
