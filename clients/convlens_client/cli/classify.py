"""`convlens classify`: what the model takes images for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from convlens.errors import ConvLensError, InvalidArgument, NotFound
from convlens_client.cli.common import Photos, emit, err, out, photos_in, table
from convlens_client.cli.options import Shared, command
from convlens_client.images import to_image
from convlens_client.results import Classification

IMAGES_A_CALL: Final = 16
Answer = tuple[Path, Classification | ConvLensError]


@command("model", "resize", "frame", "json")
def classify(
    given: Shared,
    images: Photos,
    *,
    top: Annotated[int, typer.Option(help="Predictions an image.")] = 5,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at an image that cannot be read, instead of skipping it.")
    ] = False,
    **parameters: Any,
) -> None:
    """Tell what the model takes images for; exit code 1 where some had to be skipped.

    Example: convlens classify cat.jpg photos --top 3
    """
    paths = photos_in(images)
    parameters.pop("resize", None)
    skipped = 0
    for path, answer in _answers(given, paths, top_k=top, **parameters):
        if isinstance(answer, Classification):
            _show(given, path, answer, named=len(paths) > 1)
        elif strict or len(paths) == 1:
            if str(path) not in str(answer):
                answer.add_note(str(path))
            raise answer
        else:
            err.print(f"skipped {path}: {answer}", soft_wrap=True)
            skipped += 1
    if skipped:
        err.print(f"skipped {skipped} of {len(paths)} images")
        raise typer.Exit(1)


def _answers(given: Shared, paths: Sequence[Path], **options: Any) -> Iterator[Answer]:
    """What the model says of each file, or why it cannot be read, as soon as it is known.

    Images of one call must have one size, which only scaling to a given one makes sure of.
    """
    together = 1 if given.sized == "keep" or isinstance(given.sized, int) else IMAGES_A_CALL
    for start in range(0, len(paths), together):
        yield from _of_some(given, paths[start : start + together], **options)


def _of_some(given: Shared, paths: Sequence[Path], **options: Any) -> Iterator[Answer]:
    answers: dict[int, Classification | ConvLensError] = {}
    asked = {}
    for place, path in enumerate(paths):
        try:
            asked[place] = to_image(given.picture(path), given.sized)
        except (InvalidArgument, NotFound) as error:
            answers[place] = error
    while asked:
        try:
            found = given.client.classify(list(asked.values()), **options)
        except InvalidArgument as error:
            bad = re.match(r"images\[(\d+)\]", error.field)
            if bad is None:
                raise
            place = list(asked)[int(bad[1])]
            answers[place] = error
            del asked[place]
        else:
            answers.update(zip(asked, found, strict=True))
            break
    yield from ((path, answers[place]) for place, path in enumerate(paths))


def _show(given: Shared, path: Path, answer: Classification, *, named: bool) -> None:
    if given.json:
        emit({"image": path, "predictions": answer.predictions})
        return
    if named:
        out.print(str(path), style="bold")
    rows = ((f"{p.probability:.2%}", p.index, p.label) for p in answer.predictions)
    table((" probability", " class", "label"), rows)
