"""`convlens classify`: what the model takes images for."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from convlens_client.cli.common import Images, emit, out, table
from convlens_client.cli.options import Shared, command

IMAGES_A_CALL = 16


@command("model", "resize", "json")
def classify(
    given: Shared,
    images: Images,
    *,
    top: Annotated[int, typer.Option(help="Predictions an image.")] = 5,
    **parameters: Any,
) -> None:
    """Tell what the model takes images for."""
    for start in range(0, len(images), IMAGES_A_CALL):
        paths = images[start : start + IMAGES_A_CALL]
        answers = given.client.classify(paths, top_k=top, **parameters)
        for path, answer in zip(paths, answers, strict=True):
            if given.json:
                emit({"image": path, "predictions": answer.predictions})
                continue
            if len(images) > 1:
                out.print(f"[bold]{path}[/]")
            rows = ((f"{p.probability:.2%}", p.index, p.label) for p in answer.predictions)
            table((" probability", " class", "label"), rows)
