"""`convlens adversarial substitute`: a copy of a model from its answers alone, and attacks on the copy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convlens_client.cli.common import (
    Json,
    Model,
    NoWait,
    Out,
    Resize,
    Server,
    Tls,
    connect,
    eps,
    out,
    photos,
    resize,
    table,
)
from convlens_client.cli.following import finish
from convlens_client.cli.robustness import Photos
from convlens_client.client import Operation


def substitute(
    pictures: Photos,
    *,
    held_out: Annotated[
        list[Path], typer.Option(help="Photo or folder to judge by; repeat for several.", show_default=False)
    ],
    victim: Annotated[
        str, typer.Option(help="Name that the operator has given the victim; default: this server.")
    ] = "",
    rounds: Annotated[int | None, typer.Option(help="Rounds of new questions; default 6.")] = None,
    queries: Annotated[int | None, typer.Option(help="Questions to learn from, at most.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the answers in each round.")] = None,
    eps: Annotated[
        float | None, typer.Option(parser=eps, help="Largest change of a pixel value; default 16/255.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random; default 0.")] = None,
    no_wait: NoWait = False,
    file: Out = None,
    model: Model = "",
    size: Resize = None,
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Learn a copy of a model from its answers alone, and fool the model by attacks on the copy."""
    with connect(server, tls) as client:
        operation = client.substitute(
            photos(pictures),
            photos(held_out),
            victim=victim,
            rounds=rounds,
            queries=queries,
            epochs=epochs,
            epsilon=eps,
            seed=seed,
            model=model,
            resize=resize(size),
        )
        finish(operation, file, "fooled.png", json=json, no_wait=no_wait, artifact="adversarial", tell=tell)


def tell(operation: Operation) -> None:
    """Prints how good the copy is after each round, and what the attacks on it do to the victim."""
    report = operation.report
    rows = ((str(after), f"{share:.1%}") for after, share in enumerate(report.agreement))
    table(("round", " says as the victim"), rows)
    out.print(f"queries: {report.queries} to learn, {report.measuring_queries} to measure")
    out.print(
        f"fooled by the attack: the copy {report.white_box:.1%}, the victim {report.transfer:.1%};"
        f" by noise as long: the victim {report.noise_transfer:.1%}"
    )
