"""`convlens adversarial carlini-wagner`: the smallest change in L2, by Adam on a margin of logits."""

from __future__ import annotations

from typing import Annotated

import typer

from convlens_client.cli.adversarial.common import finish_attack, index_of
from convlens_client.cli.common import Image, Json, Model, NoWait, Out, Resize, Server, Tls, connect, resize


def carlini_wagner(
    image: Image,
    *,
    target: Annotated[
        str | None, typer.Option(help="Class to be taken for, by index or label; default: any other class.")
    ] = None,
    searches: Annotated[int | None, typer.Option(help="Weights of the margin tried; default 9.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of Adam for each; default 1000.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of Adam; default 0.01.")] = None,
    confidence: Annotated[float | None, typer.Option(help="Margin of logits asked for; default 0.")] = None,
    no_wait: NoWait = False,
    file: Out = None,
    model: Model = "",
    size: Resize = None,
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Make the model see another class by the smallest change in L2 (Carlini & Wagner 2017)."""
    with connect(server, tls) as client:
        operation = client.carlini_wagner(
            image,
            targets=() if target is None else index_of(client, model, target),
            searches=searches,
            steps=steps,
            learning_rate=learning_rate,
            confidence=confidence,
            model=model,
            resize=resize(size),
        )
        finish_attack(operation, file, f"{image.stem}-adversarial.png", json=json, no_wait=no_wait)
