"""`convlens units`: what single units look for, and where they look."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from convlens_client import rendering
from convlens_client.cli import completion
from convlens_client.cli.common import Images, emit, out, table, write
from convlens_client.cli.following import finish
from convlens_client.cli.options import JOB, Shared, command
from convlens_client.cli.outcomes.field import field_sheet, sizes
from convlens_client.rendering import Picture
from convlens_client.requests import unit
from convlens_client.results import Array, UnitHit, UnitPattern

app = typer.Typer(no_args_is_help=True, help="See what single units look for, and where they look.")

LayerName = Annotated[
    str, typer.Option(autocompletion=completion.layers, help="Layer with spatial axes.", show_default=False)
]
Channel = Annotated[int, typer.Option(help="Channel, from 0.", show_default=False)]
Threshold = Annotated[float, typer.Option(help="Share of the maximum that belongs to the field.")]


@command("out", "model", "resize", "frame", "json", group=app)
def pattern(given: Shared, photos: Images, *, layer: LayerName, channel: Channel, **parameters: Any) -> None:
    """Draw what excites a unit: guided backprop where it is strongest, above the photo there.

    Example: convlens units pattern cat.jpg --layer features.relu2 --channel 3 --out pattern.png
    """
    patterns = given.client.unit_patterns(given.pictures(photos), layer, channel, **parameters)
    _report(photos, [item.hit for item in patterns], given.json)
    write(
        given.file(f"{layer}-{channel}-patterns.png"),
        padded([item.pattern for item in patterns]),
        pattern_sheet(patterns),
    )


@command("out", "model", "resize", "frame", "json", request=unit.discrepancy_maps, timeout=None, group=app)
def field(
    given: Shared,
    photos: Images,
    *,
    layer: LayerName,
    channel: Channel,
    threshold: Threshold = 0.5,
    **parameters: Any,
) -> None:
    """Measure where a unit looks, by covering photos (at most 16) with small patches of noise.

    Example: convlens units field cat.jpg --layer features.relu2 --channel 3 --out field.png
    """
    seen = given.client.discrepancy_maps(
        given.pictures(photos), layer, channel, threshold=threshold, **parameters
    )
    caption = sizes(seen.theoretical_size, seen.empirical_size)
    if given.json:
        hits = [{"image": path, "hit": hit} for path, hit in zip(photos, seen.hits, strict=True)]
        measured = {"theoretical_size": seen.theoretical_size, "empirical_size": seen.empirical_size}
        emit({**measured, "hits": hits})
    else:
        _report(photos, seen.hits, given.json)
        out.print(caption)
    write(
        given.file(f"{layer}-{channel}-field.png"),
        seen.field,
        field_sheet(seen.field, seen.images, seen.maps, threshold, caption),
    )


@command("seed", *JOB, request=unit.measure_receptive_field, group=app)
def measure(
    given: Shared,
    collection: Annotated[str, typer.Argument(help="Collection with features of the layer, pooling max.")],
    *,
    layer: LayerName,
    channel: Channel,
    threshold: Threshold = 0.5,
    **parameters: Any,
) -> None:
    """Measure where a unit looks in the images of a collection that excite it most. Ctrl-C cancels it.

    Example: convlens units measure photos --layer features.relu2 --channel 3
    """
    operation = given.client.measure_receptive_field(
        collection, layer, channel, threshold=threshold, **parameters
    )
    finish(given, operation, f"{layer}-{channel}-field.png")


def pattern_sheet(patterns: Sequence[UnitPattern]) -> Picture:
    """The two-row picture of Springenberg et al. (2015): patterns above the crops of the photos."""
    return rendering.two_rows(
        [rendering.signed(item.pattern, 99.9) for item in patterns],
        [rendering.photo(item.crop) for item in patterns],
    )


def padded(tensors: Sequence[Array]) -> Array:
    """Tensors (3, h, w) as one (N, 3, H, W), with zeros to the right and below."""
    height, width = (max(tensor.shape[axis] for tensor in tensors) for axis in (1, 2))
    return np.stack([np.pad(t, ((0, 0), (0, height - t.shape[1]), (0, width - t.shape[2]))) for t in tensors])


def _report(photos: Sequence[Path], hits: Sequence[UnitHit], json: bool) -> None:
    if json:
        for path, hit in zip(photos, hits, strict=True):
            emit({"image": path, "hit": hit})
        return
    rows = (
        (path.name, f"{hit.value:.4g}", f"{hit.y}, {hit.x}",
         f"{hit.box.left}-{hit.box.right - 1}, {hit.box.top}-{hit.box.bottom - 1}")
        for path, hit in zip(photos, hits, strict=True)
    )  # fmt: skip
    table(("image", " value", "row, column", "pixels seen (x, y)"), rows)
