"""What the commands share: arguments, values given as text, output for people and for scripts."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from convlens.errors import InvalidArgument, NotFound
from convlens.text import printable
from convlens_client import rendering
from convlens_client.images import ResizeLike
from convlens_client.pictures import SUFFIXES
from convlens_client.rendering import Picture
from convlens_client.results import Prediction

WIDE = 200
KINDS = "PNG, JPEG, WebP, AVIF, TIFF, BMP, GIF, HEIC"


class Terminal(Console):
    """A console on which text is shown as it is: labels, names of files and errors come from other people.

    It knows no markup, so that `[unused]` is not a style, and escapes what a terminal would obey.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """As `Console.print`; each text stays on its line."""
        super().print(*(printable(each) if isinstance(each, str) else each for each in objects), **options)


out = Terminal(width=None if sys.stdout.isatty() else WIDE)
err = Terminal(stderr=True)

Image = Annotated[Path, typer.Argument(help=f"Picture: {KINDS}.", show_default=False)]
Images = Annotated[list[Path], typer.Argument(help=f"Pictures: {KINDS}.", show_default=False)]
Photos = Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.", show_default=False)]
Side = Annotated[int | None, typer.Option(help="Scale the longer side down to so many pixels.")]


def resize(text: str | None) -> ResizeLike | None:
    """The resize that `--resize` names."""
    match (text or "").replace("-", "_").lower().split("x"):
        case [""]:
            return None
        case ["keep" | "short_side" as mode]:
            return mode
        case [side] if side.isdecimal():
            return int(side)
        case [height, width] if height.isdecimal() and width.isdecimal():
            return int(height), int(width)
    raise InvalidArgument.of("resize", text, "short-side, keep, a side in pixels, or HEIGHTxWIDTH")


def photos_in(paths: Sequence[Path]) -> list[Path]:
    """The photos, those of a folder in the order of their names."""
    files = (sorted(path.iterdir()) if path.is_dir() else [path] for path in paths)
    photos = [file for folder in files for file in folder if file in paths or file.suffix.lower() in SUFFIXES]
    if not photos:
        raise NotFound(f"photos: there are none in {', '.join(map(str, paths))}", field="photos")
    return photos


def number(text: str, field: str) -> float:
    """A number given as 0.03, 3e-2, 8/255 or 0.5/255."""
    numerator, slash, denominator = text.partition("/")
    try:
        return float(Fraction(numerator) / Fraction(denominator if slash else 1))
    except (ValueError, ZeroDivisionError) as error:
        raise InvalidArgument.of(field, text, "a number or a fraction, such as 0.03 or 8/255") from error


def number_of(field: str) -> Callable[[str], float]:
    """A parser of the option `field`, which takes a number or a fraction."""

    def parse(text: str) -> float:
        return number(text, field)

    return parse


def weighted(items: Iterable[str], field: str) -> dict[str, float]:
    """NAME or NAME=WEIGHT, in the order given; 1 where no weight is."""
    pairs = (item.rpartition("=") if "=" in item else (item, "", "1") for item in items)
    return {name: number(weight, field) for name, _, weight in pairs}


def tagged(items: Iterable[str]) -> dict[str, str]:
    """Tags given as NAME=VALUE."""
    pairs = [item.partition("=") for item in items]
    for name, equals, _ in pairs:
        if not (name and equals):
            raise InvalidArgument.of("tag", name, "NAME=VALUE")
    return {name: value for name, _, value in pairs}


def emit(value: Any) -> None:
    """Prints a value as JSON: dataclasses as objects, without previews and messages; no number is null.

    What is not printable is escaped as JSON does it, for the lines may be read on a terminal.
    """
    text = json.dumps(_plain(value), ensure_ascii=False)
    typer.echo("".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints rows; columns whose title begins with a space are aligned to the right."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for title in columns:
        side: Any = "right" if title.startswith(" ") else "left"
        shown.add_column(title.strip(), justify=side, overflow="fold")
    for row in rows:
        shown.add_row(*(printable(str(cell)) for cell in row))
    out.print(shown)


def write(path: Path | None, tensor: NDArray[Any], picture: Picture) -> None:
    """Writes the result where `--out` says, and tells so."""
    if path is not None:
        rendering.save(path, tensor, picture)
        err.print(f"wrote {path}")


def percent(prediction: Prediction) -> str:
    """Label and probability, such as "tabby 81%"."""
    return f"{prediction.label} {prediction.probability:.0%}"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (field.name for field in dataclasses.fields(value))
        return {name: _plain(getattr(value, name)) for name in fields if name not in ("preview", "message")}
    match value:
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case float() if math.isnan(value):
            return None
        case datetime():
            return value.isoformat()
        case Path():
            return str(value)
        case Exception():
            return {"type": type(value).__name__, "message": str(value)}
    return value
