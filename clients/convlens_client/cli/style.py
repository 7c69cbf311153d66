"""`convlens style`: one picture in the style of others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer

from convlens.errors import InvalidArgument
from convlens_client.cli.common import Image, number_of, weighted
from convlens_client.cli.following import finish
from convlens_client.cli.options import STEPWISE, Shared, command
from convlens_client.requests import synthesis

T = TypeVar("T")
NONE: Final = Path("none")
"""Stands for no mask where other styles have one."""
ONE_EACH: Final = "Repeat it for several styles, in their order; none: no mask."


@command("seed", "frame", *STEPWISE, request=synthesis.style_transfer, spelled={"noise_start": "noise"})
def style(
    given: Shared,
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
        list[Path] | None, typer.Option(help=f"Picture, white where the style goes. {ONE_EACH}")
    ] = None,
    style_mask: Annotated[
        list[Path] | None, typer.Option(help=f"Picture, white where the style is taken from. {ONE_EACH}")
    ] = None,
    style_scale: Annotated[
        list[float] | None,
        typer.Option(
            parser=number_of("style_scale"),
            help="Longer side of the style's picture over the content's: one for all, or one a style. "
            "[0.1 to 8; default: 1]",
        ),
    ] = None,
    classic: Annotated[bool, typer.Option("--classic", help="Gatys 2016: Gram matrices, L-BFGS.")] = False,
    initial: Annotated[Path | None, typer.Option(help="Picture to start with.")] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Pixels of the result's longer side; the content is scaled down to it."),
    ] = None,
    shorter_side: Annotated[
        bool, typer.Option("--shorter-side", help="--size is that of the shorter side.")
    ] = False,
    enlarge: Annotated[bool, typer.Option("--enlarge", help="Scale a smaller content up to --size.")] = False,
    **parameters: Any,
) -> None:
    """Paint a picture in the style of others. Ctrl-C cancels the job.

    Example: convlens style cat.jpg --style wave.jpg --size 512 --out painted.png
    """
    files = [pair for item in styles for pair in weighted([item], "style").items()]
    count = len(files)
    columns = (
        files,
        _one_each("mask", mask, count),
        _one_each("style_mask", style_mask, count),
        _one_each("style_scale", style_scale, count, one_for_all=True),
    )
    pictures = [
        synthesis.Style(path, weight, _picture(where), _picture(part), scale)
        for (path, weight), where, part, scale in zip(*columns, strict=True)
    ]
    operation = given.client.style_transfer(
        given.picture(content),
        pictures,
        classic=classic,
        initial=initial,
        size=size,
        shorter_side=shorter_side,
        enlarge=enlarge,
        **parameters,
    )
    finish(given, operation, f"{content.stem}-style.png")


def _one_each(
    option: str, values: Sequence[T] | None, count: int, *, one_for_all: bool = False
) -> Sequence[T | None]:
    """A value for each style, None where there are none."""
    if not values:
        return [None] * count
    if len(values) == 1 and one_for_all:
        return [values[0]] * count
    if len(values) != count:
        raise InvalidArgument.of(option, f"{len(values)} of it", f"{count}, one a style, or none")
    return values


def _picture(path: Path | None) -> Path | None:
    return None if path == NONE else path
