"""`convlens train-style`: a style network, learned from one picture of the style."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convlens_client.cli.common import Image, Json, Model, NoWait, Out, Server, Tls, connect, out, weighted
from convlens_client.cli.following import finish


def train_style(
    style: Image,
    *,
    name: Annotated[str, typer.Option(help="Name of the network in the repository.", show_default=False)],
    folder: Annotated[
        str | None,
        typer.Option(help="Folder of pictures to learn from, by the name that the server gives it."),
    ] = None,
    collection: Annotated[str | None, typer.Option(help="Or the collection to learn from.")] = None,
    preview: Annotated[
        Path | None, typer.Option(help="Picture that previews and --out show; default: one to learn from.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps; default 2000.")] = None,
    batch: Annotated[int | None, typer.Option(help="Pictures in each step; default 4.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the crops in pixels; default 256.")] = None,
    width: Annotated[
        int | None, typer.Option(help="Channels of the first layer; default 32, fewer are faster.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of Adam; default 0.001.")] = None,
    content_weight: Annotated[float | None, typer.Option(help="Of the content; default 0.3.")] = None,
    tv_weight: Annotated[float | None, typer.Option(help="Of smoothness; default 1.")] = None,
    style_size: Annotated[
        int | None, typer.Option(help="Longer side of the style in pixels; default that of the crops.")
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(help="Layer of the style, repeat for several.", metavar="LAYER[=WEIGHT]"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights and crops; default 0.")] = None,
    no_wait: NoWait = False,
    file: Out = None,
    model: Model = "",
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Train a network that paints any picture in a style by `convlens stylise`. Ctrl-C cancels the job."""
    with connect(server, tls) as client:
        operation = client.train_style(
            style,
            name,
            collection=collection,
            folder=folder,
            preview=preview,
            preview_resize=512,
            steps=steps,
            batch=batch,
            size=size,
            width=width,
            learning_rate=learning_rate,
            content_weight=content_weight,
            tv_weight=tv_weight,
            style_size=style_size,
            layers=weighted(layer or (), "layer"),
            seed=seed,
            model=model,
        )
        finish(operation, file, f"{name}.png", json=json, no_wait=no_wait)
        if not (json or no_wait):
            out.print(
                f"trained {operation.report.model}: convlens stylise PHOTO --model {name} --out painted.png"
            )
