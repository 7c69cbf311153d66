"""`convlens adversarial lbfgs`: the smallest change towards a class, by L-BFGS."""

from __future__ import annotations

from typing import Annotated

import typer

from convlens_client.cli.adversarial.common import Target, finish_attack, index_of
from convlens_client.cli.common import Image, Json, Model, NoWait, Out, Resize, Server, Tls, connect, resize


def lbfgs(
    image: Image,
    *,
    target: Target,
    searches: Annotated[int | None, typer.Option(help="Weights of the target tried; default 9.")] = None,
    steps: Annotated[int | None, typer.Option(help="Iterations for each; default 50.")] = None,
    no_wait: NoWait = False,
    file: Out = None,
    model: Model = "",
    size: Resize = None,
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Make the model see another class by the smallest change (Szegedy et al. 2014)."""
    with connect(server, tls) as client:
        operation = client.lbfgs_attack(
            image,
            index_of(client, model, target),
            searches=searches,
            steps=steps,
            model=model,
            resize=resize(size),
        )
        finish_attack(operation, file, f"{image.stem}-adversarial.png", json=json, no_wait=no_wait)
