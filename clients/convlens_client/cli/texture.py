"""`convlens texture`: more of a texture."""

from __future__ import annotations

from typing import Annotated

import typer

from convlens_client.cli.common import Image, Json, Model, NoWait, Out, Server, Tls, connect, weighted
from convlens_client.cli.following import finish


def texture(
    sample: Image,
    *,
    height: Annotated[int | None, typer.Option(help="Pixels; default: the sample's.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels; default: the sample's.")] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(help="Layer, repeat for several; default: every ReLU.", metavar="LAYER[=WEIGHT]"),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps at each scale; default 300.")] = None,
    scales: Annotated[int | None, typer.Option(help="Scales; default 3.")] = None,
    adam: Annotated[bool, typer.Option("--adam", help="Adam instead of L-BFGS.")] = False,
    max_pooling: Annotated[
        bool, typer.Option("--max-pooling", help="Keep the network's max pooling.")
    ] = False,
    seamless: Annotated[bool, typer.Option("--seamless", help="Let opposite edges fit together.")] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of the noise; default 0.")] = None,
    size: Annotated[
        int | None, typer.Option(help="Scale the sample's longer side down to so many pixels.")
    ] = None,
    no_wait: NoWait = False,
    file: Out = None,
    model: Model = "",
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Make a picture with the texture of a sample, of any size. Ctrl-C cancels the job."""
    with connect(server, tls) as client:
        operation = client.texture(
            sample,
            height=height,
            width=width,
            layers=weighted(layer or (), "layer"),
            steps=steps,
            scales=scales,
            adam=adam,
            max_pooling=max_pooling,
            seamless=seamless,
            seed=seed,
            model=model,
            resize=size or "keep",
        )
        finish(operation, file, f"{sample.stem}-texture.png", json=json, no_wait=no_wait)
