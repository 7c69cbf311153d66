"""`convlens style`: one picture in the style of others."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from convlens.errors import InvalidArgument
from convlens_client.cli.common import Image, Json, Model, NoWait, Out, Server, Tls, connect, weighted
from convlens_client.cli.following import finish
from convlens_client.requests import Style


class Colours(StrEnum):
    """Whose colours the result has."""

    STYLE = "style"
    LUMINANCE = "luminance"
    COVARIANCE = "covariance"


def style(
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
    content_weight: Annotated[float | None, typer.Option(help="Of the content; default 0.25.")] = None,
    colours: Annotated[Colours, typer.Option(help="Whose colours; all but style keep the content's.")] = (
        Colours.STYLE
    ),
    first_steps: Annotated[int | None, typer.Option(help="Steps at the first scale; default 1000.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps at each further scale; default 500.")] = None,
    noise: Annotated[bool, typer.Option("--noise", help="Start with noise, not the content.")] = False,
    size: Annotated[
        int | None, typer.Option(help="Scale the content's longer side down to so many pixels.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the noise; default 0.")] = None,
    no_wait: NoWait = False,
    file: Out = None,
    model: Model = "",
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Paint a picture in the style of others. Ctrl-C cancels the job."""
    chosen = weighted(styles, "style")
    masks: Sequence[Path | None] = mask or [None] * len(chosen)
    if len(masks) != len(chosen):
        raise InvalidArgument.of("mask", f"{len(masks)} files", f"{len(chosen)}, one a style, or none")
    whose: Any = colours.value
    with connect(server, tls) as client:
        operation = client.style_transfer(
            content,
            [Style(path, weight, where) for (path, weight), where in zip(chosen.items(), masks, strict=True)],
            classic=classic,
            content_weight=content_weight,
            colours=whose,
            first_steps=first_steps,
            steps=steps,
            noise_start=noise,
            seed=seed,
            model=model,
            resize=size or "keep",
        )
        finish(operation, file, f"{content.stem}-style.png", json=json, no_wait=no_wait)
