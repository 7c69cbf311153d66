"""`convlens dream`: DeepDream, followed to its end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from convlens.errors import InvalidArgument
from convlens_client.cli.common import Image, Side
from convlens_client.cli.following import finish
from convlens_client.cli.options import STEPWISE, VIDEOS, Filmed, command
from convlens_client.requests import synthesis


@command("seed", "frame", *STEPWISE, request=synthesis.deepdream)
def dream(
    given: Filmed,
    image: Image,
    *,
    guide: Annotated[Path | None, typer.Option(help="Picture whose features are to be dreamt of.")] = None,
    mask: Annotated[Path | None, typer.Option(help="Picture that is white where the other dreams.")] = None,
    size: Side = None,
    **parameters: Any,
) -> None:
    """Amplify what a layer sees in a picture (DeepDream). Ctrl-C cancels the job.

    Of several --frames, --out x.webp, x.gif or x.mp4 writes a video, and other names the last frame.

    Example: convlens dream cat.jpg --size 512 --octaves 4 --out dream.png
    """
    video = _video(given.out, parameters.get("video"))
    operation = given.client.deepdream(
        given.picture(image),
        **parameters | {"guide": guide, "mask": mask, "resize": size or "keep", "video": video},
    )
    finish(given, operation, f"{image.stem}-dream.{video or 'png'}")


def _video(out: Path | None, named: str | None) -> str | None:
    """The file that is to be made of the frames: what `--video` names, or the ending of `--out`."""
    suffix = "" if out is None else out.suffix.lower()
    if suffix in VIDEOS and suffix != f".{named or suffix[1:]}":
        raise InvalidArgument.of("out", str(out), f"a file ending in .{named}, as --video says")
    return named or (suffix[1:] if suffix in VIDEOS else None)
