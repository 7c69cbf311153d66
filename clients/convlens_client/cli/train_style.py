"""`convlens train-style`: a style network, learned from one picture of the style."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from convlens_client.cli import completion
from convlens_client.cli.common import Image
from convlens_client.cli.following import finish
from convlens_client.cli.options import JOB, Shared, command
from convlens_client.requests import synthesis


@command("seed", *JOB, request=synthesis.train_style)
def train_style(
    given: Shared,
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
    start_from: Annotated[
        str | None,
        typer.Option(
            autocompletion=completion.models, help="Style network to go on from, as name or name/version."
        ),
    ] = None,
    **parameters: Any,
) -> None:
    """Train a network that paints any picture in a style by `convlens stylise`. Ctrl-C cancels the job.

    Example: convlens train-style wave.jpg --name wave --collection photos
    """
    parameters |= {"collection": collection, "folder": folder, "start_from": start_from}
    operation = given.client.train_style(style, name, preview=preview, preview_resize=512, **parameters)
    finish(given, operation, f"{name}.png")
