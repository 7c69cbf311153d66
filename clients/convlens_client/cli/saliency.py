"""`convlens saliency`: which pixels a class or a unit responds to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from convlens.errors import InvalidArgument
from convlens.v1 import attribution_pb2
from convlens_client import contract, rendering
from convlens_client.cli.common import Image, emit, out, write
from convlens_client.cli.following import finish
from convlens_client.cli.options import JOB, command
from convlens_client.cli.targets import Targeted
from convlens_client.client import Operation
from convlens_client.images import ImageLike, ResizeLike, as_seen
from convlens_client.requests import attribution
from convlens_client.results import Array, Attribution, Model

Look = Literal["auto", "signed", "magnitude", "heat"]
METHODS: Final[dict[str, Any]] = {name.replace("_", "-"): name for name in attribution.TECHNIQUES}
"""The techniques as the command line spells them."""
AS_JOB: Final = (
    "As a job, for more passes than a call may take; of rise, occlusion, smoothgrad and integrated-gradients."
)
SCORING: Final = contract.parameters(attribution_pb2.Quality.DESCRIPTOR)
if TYPE_CHECKING:
    Method = str
    InsertionStart = str
    DeletionEnd = str
else:
    Method = StrEnum("Method", {name: name for name in METHODS})
    InsertionStart = StrEnum("InsertionStart", {name: name for name in SCORING["insertion_start"].choices})
    DeletionEnd = StrEnum("DeletionEnd", {name: name for name in SCORING["deletion_end"].choices})


@command(*JOB, "resize", "frame", request=attribution.attribute, timeout=None)
def saliency(
    given: Targeted,
    image: Image,
    *,
    method: Annotated[Method, typer.Option(help="Technique.")] = "gradient",
    quality: Annotated[bool, typer.Option("--quality", help="Also insertion and deletion scores.")] = False,
    insertion_start: Annotated[
        InsertionStart | None, typer.Option(help=SCORING["insertion_start"].help)
    ] = None,
    deletion_end: Annotated[DeletionEnd | None, typer.Option(help=SCORING["deletion_end"].help)] = None,
    look: Annotated[
        Look,
        typer.Option(help="Signed around grey, largest |channel|, or heat over the photo; auto: as fits."),
    ] = "auto",
    job: Annotated[bool, typer.Option("--job", help=AS_JOB)] = False,
    **parameters: Any,
) -> None:
    """Draw which pixels a class or a unit responds to.

    Example: convlens saliency cat.jpg --method grad-cam --class dots --out map.png
    """
    shown = given.picture(image)
    model = given.client.get_model(given.model)
    if job:
        if quality:
            raise InvalidArgument.of("quality", True, "left out with --job")
        _queue(given, image, method, lambda map_: picture(map_, shown, given.sized, look), parameters)
        return
    _check_waited_for(given)
    scoring = attribution_pb2.Quality()
    contract.fill(scoring, {"insertion_start": insertion_start, "deletion_end": deletion_end})
    answer = given.client.attribute(
        shown, METHODS[method], given.target(model), quality=quality and scoring, **parameters
    )
    _report(answer, given, model)
    if given.out is not None:
        write(
            given.file(f"{image.stem}-{method}.png"),
            answer.map[0],
            picture(answer.map[0], shown, given.sized, look),
        )


def _queue(
    given: Targeted,
    image: Path,
    method: str,
    draw: Callable[[Array], rendering.Picture],
    parameters: Mapping[str, Any],
) -> None:
    """Has a job do it, and writes the same picture."""
    target = given.target(given.client.get_model(given.model))
    operation = given.client.attribution_maps(given.picture(image), METHODS[method], target, **parameters)

    def drawn(ended: Operation) -> tuple[Array, rendering.Picture]:
        map_ = ended.artifact(f"0.{METHODS[method]}")[0]
        return map_, draw(map_)

    finish(given, operation, f"{image.stem}-{method}.png", draw=drawn)


def _check_waited_for(given: Targeted) -> None:
    """Refuse what only a job can be told."""
    for name in ("priority", "tags", "no_wait"):
        if value := getattr(given, name):
            raise InvalidArgument.of(name, value, "given with --job")


def picture(map_: Array, image: ImageLike, resize: ResizeLike | None, look: Look) -> rendering.Picture:
    """A map (C, H, W) as a picture; heat over the photo where it has a single channel, unless told."""
    if look == "heat" or (look == "auto" and len(map_) == 1):
        height, width = map_.shape[1:]
        return rendering.glow(map_, as_seen(image, height, width, resize))
    return rendering.magnitude(map_) if look == "magnitude" else rendering.signed(map_)


def _report(answer: Attribution, given: Targeted, model: Model) -> None:
    index = answer.class_indices[0] if answer.class_indices else None
    name = given.unit if index is None else model.labels[index]
    scores = {
        "completeness_residual": answer.completeness_residuals,
        "insertion": answer.insertion,
        "deletion": answer.deletion,
    }
    told: dict[str, Any] = {key: value[0] for key, value in scores.items() if value}
    if given.json:
        shape = answer.map.shape[1:]
        told |= {"quality": answer.quality} if answer.quality else {}
        emit({"target": name, "class_index": index, "value": answer.values[0], "shape": shape, **told})
        return
    out.print(f"{name}: {answer.values[0]:.6g}")
    for key, value in told.items():
        out.print(f"{key.replace('_', ' ')}: {value:.4g}")
    if answer.quality:
        start, end = answer.quality.insertion_start.lower(), answer.quality.deletion_end.lower()
        out.print(f"insertion from the {start} blur, deletion to {end}, {answer.quality.steps} steps")
    if not answer.map.any():
        out.print("the map is zero: nothing gets back to the pixels; try a --channel or another --method")
