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
    NoWait,
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
from convlens_client.cli.following import finish
from convlens_client.client import Operation
from convlens_client.rendering import Picture
from convlens_client.results import Array, UnitHit, UnitPattern

app = typer.Typer(no_args_is_help=True, help="See what single units look for, and where they look.")

Photos = Annotated[list[Path], typer.Argument(help="PNG, JPEG or WebP files.", show_default=False)]
LayerName = Annotated[str, typer.Option(help="Layer with spatial axes.", show_default=False)]
Channel = Annotated[int, typer.Option(help="Channel, from 0.", show_default=False)]
Patch = Annotated[int | None, typer.Option(help="Side of the occluding patch; default 11.")]
Stride = Annotated[int | None, typer.Option(help="Pixels between patches; default 3.")]
Threshold = Annotated[float, typer.Option(help="Share of the maximum that belongs to the field.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the patches; default 0.")]


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
    patch: Patch = None,
    stride: Stride = None,
    threshold: Threshold = 0.5,
    seed: Seed = None,
    file: Out = None,
    model: Model = "",
    size: Resize = None,
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Measure where a unit looks, by covering photos (at most 16) with small patches of noise."""
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
        hits = [{"image": path, "hit": hit} for path, hit in zip(photos, found.hits, strict=True)]
        measured = {"theoretical_size": found.theoretical_size, "empirical_size": found.empirical_size}
        emit({**measured, "hits": hits})
    else:
        _report(photos, found.hits, json)
        out.print(sizes(found.theoretical_size, found.empirical_size))
    caption = sizes(found.theoretical_size, found.empirical_size)
    write(file, found.field, field_sheet(found.field, found.images, found.maps, threshold, caption))


@app.command()
def measure(
    collection: Annotated[str, typer.Argument(help="Collection with features of the layer, pooling max.")],
    *,
    layer: LayerName,
    channel: Channel,
    k: Annotated[int | None, typer.Option("-k", help="Images that excite the unit most; default 10.")] = None,
    patch: Patch = None,
    stride: Stride = None,
    threshold: Threshold = 0.5,
    seed: Seed = None,
    no_wait: NoWait = False,
    file: Out = None,
    model: Model = "",
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Measure where a unit looks in the images of a collection that excite it most. Ctrl-C cancels it."""

    def draw(operation: Operation) -> tuple[Array, Picture]:
        made = operation.result()
        theoretical, empirical = made["sizes"].tolist()
        caption = sizes(int(theoretical), empirical)
        sheet = field_sheet(made["field"], made["images"], made["maps"], threshold, caption)
        return made["field"], sheet

    with connect(server, tls) as client:
        operation = client.measure_receptive_field(
            collection,
            layer,
            channel,
            k=k,
            patch=patch,
            stride=stride,
            threshold=threshold,
            seed=seed,
            model=model,
        )
        finish(operation, file, "field.png", json=json, no_wait=no_wait, draw=draw)
        if not (json or no_wait):
            theoretical, empirical = operation.artifact("sizes").tolist()
            out.print(sizes(int(theoretical), empirical))


def pattern_sheet(found: Sequence[UnitPattern]) -> Picture:
    """The two-row picture of Springenberg et al. (2015): patterns above the crops of the photos."""
    return rendering.two_rows(
        [rendering.signed(item.pattern, 99.9) for item in found],
        [rendering.photo(item.crop) for item in found],
    )


def field_sheet(field: Array, images: Array, maps: Array, threshold: float, caption: str) -> Picture:
    """The averaged map, red above the threshold, and the images lit where the unit looks."""
    lit = [rendering.highlighted(*pair) for pair in zip(images, maps, strict=True)]
    return rendering.sheet(
        [
            (caption.replace(", ", "\n"), rendering.heat(field, threshold)),
            (f"{len(lit)} images", rendering.grid(lit)),
        ]
    )


def sizes(theoretical: int, empirical: float) -> str:
    """Both sizes of the receptive field."""
    return f"empirical size {empirical:.1f} px, theoretical {theoretical} px"


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
