"""`convlens style`: one picture in the style of others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from convlens.errors import InvalidArgument
from convlens_client.cli.common import Image, Side, weighted
from convlens_client.cli.following import finish
from convlens_client.cli.options import STEPWISE, Shared, command
from convlens_client.requests import synthesis


@command("seed", "frame", *STEPWISE, request=synthesis.style_transfer, spelled={"noise_start": "noise"})
def style(
    given: Shared,
    content: Image,
    *,
    styles: Annotated[
        list[str],
        typer.Option(
            "--style",
            help="Picture of the style; repeat for several.",
            metavar="FILE[=WEIGHT]",
            show_default=False,
        ),
    ],
    mask: Annotated[
        list[Path] | None,
        typer.Option(help="For each style: white where it counts. None, or one a style, in order."),
    ] = None,
    classic: Annotated[bool, typer.Option("--classic", help="Gatys 2016: Gram matrices, L-BFGS.")] = False,
    size: Side = None,
    **parameters: Any,
) -> None:
    """Paint a picture in the style of others. Ctrl-C cancels the job.

    Example: convlens style cat.jpg --style wave.jpg --size 512 --out painted.png
    """
    files = weighted(styles, "style")
    masks: Sequence[Path | None] = mask or [None] * len(files)
    if len(masks) != len(files):
        raise InvalidArgument.of("mask", f"{len(masks)} files", f"{len(files)}, one a style, or none")
    pictures = [
        synthesis.Style(path, weight, where)
        for (path, weight), where in zip(files.items(), masks, strict=True)
    ]
    operation = given.client.style_transfer(
        given.picture(content), pictures, classic=classic, resize=size or "keep", **parameters
    )
    finish(given, operation, f"{content.stem}-style.png")
