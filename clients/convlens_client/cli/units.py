"""`convlens units`: what single units look for, and where they look."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from convlens_client import rendering
from convlens_client.cli.common import (
    Json,
    Model,
    Out,
    Resize,
    Server,
    Tls,
    connect,
    emit,
    out,
    resize,
    table,
    write,
)
from convlens_client.rendering import Picture
from convlens_client.results import Array, ReceptiveField, UnitHit, UnitPattern

app = typer.Typer(no_args_is_help=True, help="See what single units look for, and where they look.")

Photos = Annotated[list[Path], typer.Argument(help="PNG, JPEG or WebP files.", show_default=False)]
LayerName = Annotated[str, typer.Option(help="Layer with spatial axes.", show_default=False)]
Channel = Annotated[int, typer.Option(help="Channel, from 0.", show_default=False)]


@app.command()
def pattern(
    photos: Photos,
    *,
    layer: LayerName,
    channel: Channel,
    file: Out = None,
    model: Model = "",
    size: Resize = None,
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Draw what excites a unit: guided backprop where it is strongest, above the photo there."""
    with connect(server, tls) as client:
        found = client.unit_patterns(photos, layer, channel, model=model, resize=resize(size))
    _report(photos, [item.hit for item in found], json)
    write(file, padded([item.pattern for item in found]), pattern_sheet(found))


@app.command()
def field(
    photos: Photos,
    *,
    layer: LayerName,
    channel: Channel,
    patch: Annotated[int | None, typer.Option(help="Side of the occluding patch; default 11.")] = None,
    stride: Annotated[int | None, typer.Option(help="Pixels between patches; default 3.")] = None,
    threshold: Annotated[float, typer.Option(help="Share of the maximum that belongs to the field.")] = 0.5,
    seed: Annotated[int | None, typer.Option(help="Seed of the patches; default 0.")] = None,
    file: Out = None,
    model: Model = "",
    size: Resize = None,
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Measure where a unit looks, by covering photos with small patches of noise (at most 16 photos)."""
    with connect(server, tls, timeout=None) as client:
        found = client.discrepancy_maps(
            photos,
            layer,
            channel,
            patch=patch,
            stride=stride,
            threshold=threshold,
            seed=seed,
            model=model,
            resize=resize(size),
        )
    if json:
        emit(
            {
                "theoretical_size": found.theoretical_size,
                "empirical_size": found.empirical_size,
                "hits": [{"image": path, "hit": hit} for path, hit in zip(photos, found.hits, strict=True)],
            }
        )
    else:
        _report(photos, found.hits, json)
        out.print(sizes(found))
    write(file, found.field, field_sheet(found, threshold))


def pattern_sheet(found: Sequence[UnitPattern]) -> Picture:
    """The two-row picture of Springenberg et al. (2015): patterns above the crops of the photos."""
    return rendering.two_rows(
        [rendering.signed(item.pattern, 99.9) for item in found],
        [rendering.photo(item.crop) for item in found],
    )


def field_sheet(found: ReceptiveField, threshold: float) -> Picture:
    """The averaged map, red above the threshold, and the images lit where the unit looks."""
    lit = [rendering.highlighted(*pair) for pair in zip(found.images, found.maps, strict=True)]
    return rendering.sheet(
        [
            (sizes(found).replace(", ", "\n"), rendering.heat(found.field, threshold)),
            (f"{len(lit)} images", rendering.grid(lit)),
        ]
    )


def sizes(found: ReceptiveField) -> str:
    """Both sizes of the receptive field."""
    return f"empirical size {found.empirical_size:.1f} px, theoretical {found.theoretical_size} px"


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
