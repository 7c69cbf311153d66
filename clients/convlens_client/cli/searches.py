"""`convlens collections nearest`, `top` and `map`: what is near what, and what excites a unit most."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from convlens_client.cli import completion
from convlens_client.cli.common import emit, out, table, write
from convlens_client.cli.options import Shared, command
from convlens_client.client import Client
from convlens_client.contact_sheet import Tile, contact_sheet, decoded, scatter
from convlens_client.images import as_encoded
from convlens_client.rendering import Picture
from convlens_client.requests.collection import Metric, Pooling, Projection

THUMBNAIL = 128
MAP_TILE = 48


Id = Annotated[str, typer.Argument(help="The collection.", metavar="COLLECTION", show_default=False)]
Layer = Annotated[
    str, typer.Option(autocompletion=completion.layers, help="Layer of the model.", show_default=False)
]
Pool = Annotated[Pooling, typer.Option(help="How the layer's map became a vector.")]


@command("out", "model", "json")
def nearest(
    given: Shared,
    id: Id,  # noqa: A002
    images: Annotated[list[str], typer.Argument(help="Names of images of the collection, or files.")],
    *,
    layer: Layer,
    pooling: Pool = "mean",
    metric: Annotated[Metric, typer.Option(help="Distance.")] = "cosine",
    k: Annotated[int, typer.Option(help="Neighbours.")] = 5,
    approximate: Annotated[bool, typer.Option("--approximate", help="Search an index, not all.")] = False,
    **parameters: Any,
) -> None:
    """Find the images whose features are nearest; --out draws each query with its neighbours.

    Example: convlens collections nearest photos cat.jpg --layer features.relu2 --out near.png
    """
    rows, answers = [], {}
    options: Any = {"pooling": pooling, "metric": metric, "k": k, "approximate": approximate, **parameters}
    for image in images:
        query = Path(image) if Path(image).is_file() else image
        answer = given.client.nearest(id, query, layer, thumbnail=THUMBNAIL, **options)
        answers[image] = answer
        tiles = [Tile(f"{n.distance:.3f} {n.image.name}", decoded(n.thumbnail)) for n in answer.neighbours]
        rows.append([Tile(Path(image).name, _picture(given.client, id, image), apart=True), *tiles])
    if given.json:
        emit({name: [(n.image.name, n.distance) for n in a.neighbours] for name, a in answers.items()})
    else:
        table(
            ("query", "neighbour", " distance"),
            ((q, n.image.name, f"{n.distance:.4f}") for q, a in answers.items() for n in a.neighbours),
        )
        if approximate:
            out.print(f"recall at 10: {min(answer.recall_at_10 for answer in answers.values()):.3f}")
    distances = np.array([[n.distance for n in answer.neighbours] for answer in answers.values()], np.float32)
    write(given.file(f"{id}-nearest.png"), distances, contact_sheet(rows))


@command("out", "model", "json")
def top(
    given: Shared,
    id: Id,  # noqa: A002
    channels: Annotated[list[int], typer.Argument(help="Channels of the layer, from 0.")],
    *,
    layer: Layer,
    k: Annotated[int, typer.Option(help="Images.")] = 9,
    patterns: Annotated[bool, typer.Option("--patterns", help="Also draw guided backprop below.")] = False,
    **parameters: Any,
) -> None:
    """Find the images that excite units most; --out draws the patches that they see, a row a unit.

    Example: convlens collections top photos 3 17 --layer features.relu2 --out top.png
    """
    rows, by_channel = [], {}
    for channel in channels:
        hits = given.client.top_activations(id, layer, channel, k=k, patterns=patterns, **parameters)
        by_channel[channel] = hits
        rows.append([Tile(f"{channel}: {hit.hit.value:.3g}", decoded(hit.crop)) for hit in hits])
        if patterns:
            rows.append([Tile("", decoded(hit.pattern)) for hit in hits])
    if given.json:
        emit({channel: [(hit.image.name, hit.hit) for hit in hits] for channel, hits in by_channel.items()})
    else:
        table(
            (" channel", "image", " value", " y", " x"),
            (
                (channel, hit.image.name, f"{hit.hit.value:.4g}", hit.hit.y, hit.hit.x)
                for channel, hits in by_channel.items()
                for hit in hits
            ),
        )
    values = np.array([[hit.hit.value for hit in hits] for hits in by_channel.values()], np.float32)
    write(given.file(f"{id}-top.png"), values, contact_sheet(rows))


@command("out", "model", "json", timeout=600.0)
def map_collection(
    given: Shared,
    id: Id,  # noqa: A002
    *,
    layer: Layer,
    pooling: Pool = "mean",
    projection: Annotated[Projection, typer.Option(help="PCA at once, or t-SNE.")] = "pca",
    perplexity: Annotated[float | None, typer.Option(help="Of t-SNE; default 30.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of t-SNE; default 0.")] = None,
    **parameters: Any,
) -> None:
    """Map the images on a plane by their features; --out draws their thumbnails there.

    Example: convlens collections map photos --layer features.relu2 --out map.png
    """
    options: Any = {"pooling": pooling, "projection": projection, "perplexity": perplexity, "seed": seed}
    plane = given.client.map_collection(id, layer, **options, **parameters)
    images = given.client.list_images(id)
    if given.json:
        emit({image.name: point.tolist() for image, point in zip(images, plane.points, strict=True)})
    elif plane.explained_variance is not None:
        shares = " and ".join(f"{share:.1%}" for share in plane.explained_variance)
        out.print(f"the axes explain {shares} of the variance")
    if given.out is not None:
        files = (given.client.get_image(id, image.name, thumbnail=MAP_TILE) for image in images)
        write(
            given.file(f"{id}-map.png"),
            plane.points,
            scatter(plane.points, map(decoded, files), tile=MAP_TILE),
        )


def _picture(client: Client, id_: str, image: str) -> Picture:
    path = Path(image)
    return decoded(
        as_encoded(path, "images") if path.is_file() else client.get_image(id_, image, thumbnail=THUMBNAIL)
    )
