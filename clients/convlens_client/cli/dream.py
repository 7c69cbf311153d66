"""`convlens dream`: DeepDream, followed to its end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convlens_client.cli.common import Image, Json, Model, Out, Server, Tls, connect, emit, err, out
from convlens_client.cli.following import cancelling, follow, write_artifact


def dream(
    image: Image,
    *,
    layer: Annotated[
        list[str] | None, typer.Option(help="Layer to amplify, repeat for several; default: the model's own.")
    ] = None,
    octaves: Annotated[int | None, typer.Option(help="Scales; default 4.")] = None,
    octave_scale: Annotated[float | None, typer.Option(help="Ratio between scales; default 1.4.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps at each scale; default 10.")] = None,
    step_size: Annotated[float | None, typer.Option(help="Length of a step in 1/255; default 1.5.")] = None,
    jitter: Annotated[int | None, typer.Option(help="Largest random shift in pixels; default 32.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the shifts; default 0.")] = None,
    size: Annotated[int | None, typer.Option(help="Scale the longer side down to so many pixels.")] = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Only queue the job and print its name.")
    ] = False,
    file: Out = None,
    model: Model = "",
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Amplify what a layer sees in a picture (DeepDream). Ctrl-C cancels the job."""
    with connect(server, tls) as client:
        operation = client.deepdream(
            image,
            layers=layer or (),
            octaves=octaves,
            octave_scale=octave_scale,
            steps=steps,
            step_size=step_size,
            jitter=jitter,
            seed=seed,
            model=model,
            resize=size or "keep",
        )
        if not no_wait:
            with cancelling(operation) as interrupted:
                metadata = follow(operation, json)
            if interrupted.is_set() and metadata.state == "CANCELLED":
                err.print(f"cancelled after {metadata.step} of {metadata.total_steps} steps")
                raise typer.Exit(130)
            write_artifact(operation, "", file)
        if json:
            emit(operation.state)
        elif no_wait or file is None:
            out.print(operation.name)
            _hint(operation.name, image)


def _hint(name: str, image: Path) -> None:
    out.print(
        f"[dim]save it with: convlens jobs result {name} --out {image.stem}-dream.png[/]", soft_wrap=True
    )
