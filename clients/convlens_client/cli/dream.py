"""`convlens dream`: DeepDream, followed to its end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convlens_client.cli.common import Image, Json, Model, NoWait, Out, Server, Tls, connect
from convlens_client.cli.following import finish

VIDEO = "zoom.webp"


def dream(
    image: Image,
    *,
    layer: Annotated[
        list[str] | None, typer.Option(help="Layer to amplify, repeat for several; default: the model's own.")
    ] = None,
    octaves: Annotated[int | None, typer.Option(help="Scales; default 4.")] = None,
    octave_scale: Annotated[float | None, typer.Option(help="Ratio between scales; default 1.4.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps at each scale; default 10.")] = None,
    step_size: Annotated[
        float | None, typer.Option(help="Length of a step in 1/255; default 1.5, less for low layers.")
    ] = None,
    jitter: Annotated[int | None, typer.Option(help="Largest random shift in pixels; default 32.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the shifts; default 0.")] = None,
    channel: Annotated[
        list[int] | None, typer.Option(help="Channel of the one layer to amplify, repeat for several.")
    ] = None,
    guide: Annotated[Path | None, typer.Option(help="Picture whose features are to be dreamt of.")] = None,
    tile: Annotated[
        int | None, typer.Option(help="Side of what is seen at once; default 512, 0: the whole picture.")
    ] = None,
    laplacian: Annotated[
        int | None, typer.Option(help="Bands of the gradient brought to one strength; default 0, as it is.")
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(help="Frames of a video; --out x.webp writes it, other names the last frame."),
    ] = None,
    zoom: Annotated[float | None, typer.Option(help="From frame to frame; default 1.05.")] = None,
    frame_rate: Annotated[float | None, typer.Option(help="Frames a second; default 12.")] = None,
    size: Annotated[int | None, typer.Option(help="Scale the longer side down to so many pixels.")] = None,
    no_wait: NoWait = False,
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
            channels=channel or (),
            guide=guide,
            tile=tile,
            laplacian=laplacian,
            frames=frames,
            zoom=zoom,
            frame_rate=frame_rate,
            seed=seed,
            model=model,
            resize=size or "keep",
        )
        animated = (frames or 1) > 1 and file is not None and file.suffix.lower() == ".webp"
        artifact = VIDEO if animated else ""
        finish(operation, file, f"{image.stem}-dream.png", json=json, no_wait=no_wait, artifact=artifact)
