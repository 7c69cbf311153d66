"""`convlens collections nearest`, `top` and `map`: what is near what, and what excites a unit most."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from convlens_client.cli.common import Json, Model, Out, Server, Tls, connect, emit, out, table, write
from convlens_client.client import Client
from convlens_client.contact_sheet import Tile, contact_sheet, decoded, scatter
from convlens_client.rendering import Picture

THUMBNAIL = 128
MAP_TILE = 48


class Pooling(StrEnum):
    """How a layer's map becomes a vector."""

    MEAN = "mean"
    MAX = "max"
    FLATTEN = "flatten"


class Metric(StrEnum):
    """How far two vectors are apart."""

    COSINE = "cosine"
    L2 = "l2"


class Projection(StrEnum):
    """How vectors become points."""

    PCA = "pca"
    TSNE = "tsne"


Id = Annotated[str, typer.Argument(help="The collection.", metavar="COLLECTION", show_default=False)]
Layer = Annotated[str, typer.Option(help="Layer of the model.", show_default=False)]
Pool = Annotated[Pooling, typer.Option(help="How the layer's map became a vector.")]


def nearest(
    id: Id,  # noqa: A002
    images: Annotated[list[str], typer.Argument(help="Names of images of the collection, or files.")],
    *,
    layer: Layer,
    pooling: Pool = Pooling.MEAN,
    metric: Annotated[Metric, typer.Option(help="Distance.")] = Metric.COSINE,
    k: Annotated[int, typer.Option(help="Neighbours.")] = 5,
    approximate: Annotated[bool, typer.Option("--approximate", help="Search an index, not all.")] = False,
    file: Out = None,
    model: Model = "",
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Find the images whose features are nearest; --out draws each query with its neighbours."""
    rows, found = [], {}
    with connect(server, tls) as client:
        for image in images:
            found[image] = answer = client.nearest(
                id,
                Path(image) if Path(image).is_file() else image,
                layer,
                pooling=pooling.value,
                k=k,
                metric=metric.value,
                approximate=approximate,
                thumbnail=THUMBNAIL,
                model=model,
            )
            tiles = [
                Tile(f"{n.distance:.3f} {n.image.name}", decoded(n.thumbnail)) for n in answer.neighbours
            ]
            rows.append([Tile(Path(image).name, _picture(client, id, image), apart=True), *tiles])
    if json:
        emit(
            {name: [(n.image.name, n.distance) for n in answer.neighbours] for name, answer in found.items()}
        )
    else:
        table(
            ("query", "neighbour", " distance"),
            ((name, n.image.name, f"{n.distance:.4f}") for name, a in found.items() for n in a.neighbours),
        )
        if approximate:
            out.print(f"recall at 10: {min(answer.recall_at_10 for answer in found.values()):.3f}")
    distances = np.array([[n.distance for n in answer.neighbours] for answer in found.values()], np.float32)
    write(file, distances, contact_sheet(rows))


def top(
    id: Id,  # noqa: A002
    channels: Annotated[list[int], typer.Argument(help="Channels of the layer, from 0.")],
    *,
    layer: Layer,
    k: Annotated[int, typer.Option(help="Images.")] = 9,
    patterns: Annotated[bool, typer.Option("--patterns", help="Also draw guided backprop below.")] = False,
    file: Out = None,
    model: Model = "",
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Find the images that excite units most; --out draws the patches that they see, a row a unit."""
    rows, found = [], {}
    with connect(server, tls) as client:
        for channel in channels:
            found[channel] = hits = client.top_activations(
                id, layer, channel, k=k, patterns=patterns, model=model
            )
            rows.append([Tile(f"{channel}: {hit.hit.value:.3g}", decoded(hit.crop)) for hit in hits])
            if patterns:
                rows.append([Tile("", decoded(hit.pattern)) for hit in hits])
    if json:
        emit({channel: [(hit.image.name, hit.hit) for hit in hits] for channel, hits in found.items()})
    else:
        table(
            (" channel", "image", " value", " y", " x"),
            (
                (channel, hit.image.name, f"{hit.hit.value:.4g}", hit.hit.y, hit.hit.x)
                for channel, hits in found.items()
                for hit in hits
            ),
        )
    values = np.array([[hit.hit.value for hit in hits] for hits in found.values()], np.float32)
    write(file, values, contact_sheet(rows))


def map_collection(
    id: Id,  # noqa: A002
    *,
    layer: Layer,
    pooling: Pool = Pooling.MEAN,
    projection: Annotated[Projection, typer.Option(help="PCA at once, or t-SNE.")] = Projection.PCA,
    perplexity: Annotated[float | None, typer.Option(help="Of t-SNE; default 30.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of t-SNE; default 0.")] = None,
    file: Out = None,
    model: Model = "",
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Map the images on a plane by their features; --out draws their thumbnails there."""
    with connect(server, tls, timeout=600.0) as client:
        found = client.map_collection(
            id,
            layer,
            pooling=pooling.value,
            projection=projection.value,
            perplexity=perplexity,
            seed=seed,
            model=model,
        )
        images = client.list_images(id)
        if json:
            emit({image.name: point.tolist() for image, point in zip(images, found.points, strict=True)})
        elif found.explained_variance is not None:
            shares = " and ".join(f"{share:.1%}" for share in found.explained_variance)
            out.print(f"the axes explain {shares} of the variance")
        if file is not None:
            thumbnails = (decoded(client.get_image(id, image.name, thumbnail=MAP_TILE)) for image in images)
            write(file, found.points, scatter(found.points, thumbnails, tile=MAP_TILE))


def _picture(client: Client, id_: str, image: str) -> Picture:
    path = Path(image)
    return decoded(path.read_bytes() if path.is_file() else client.get_image(id_, image, thumbnail=THUMBNAIL))
