"""`convlens collections`: sets of images, what is near what in them, and what excites a unit most."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import Progress

from convlens.errors import NotFound
from convlens_client import contact
from convlens_client.cli.common import Json, Model, Out, Server, Tls, connect, emit, err, out, table, write
from convlens_client.cli.following import cancelling, follow
from convlens_client.client import Client
from convlens_client.contact import Tile
from convlens_client.rendering import Picture
from convlens_client.requests import add_images
from convlens_client.requests.collection import Named, image_files
from convlens_client.results import Added, Collection, Neighbour

THUMBNAIL = 128
MAP_TILE = 48

app = typer.Typer(no_args_is_help=True, help="Sets of images: fill, search and map them.")


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


@app.command()
def create(id: Id, json: Json = False, server: Server = "", tls: Tls = False) -> None:  # noqa: A002
    """Create an empty collection."""
    with connect(server, tls) as client:
        _show(client.create_collection(id), json)


@app.command()
def add(
    id: Id,  # noqa: A002
    images: Annotated[list[Path], typer.Argument(help="Files, and folders with all below them.")],
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Add images; those that the collection has are skipped, so that a broken run is simply run again."""
    files = [named for path in images for named in _named(path)]
    added: list[Added] = []
    with connect(server, tls, timeout=None) as client, Progress(console=err, disable=json) as progress:
        known = {image.digest for image in client.list_images(id)}
        skipped = 0
        task = progress.add_task("adding", total=len(files))

        def wanted() -> Any:
            nonlocal skipped
            for name, path in files:
                encoded = path.read_bytes()
                if hashlib.sha256(encoded).hexdigest() in known:
                    skipped += 1
                else:
                    yield Named(name, encoded)

        for answer in client.follow(add_images(id, wanted())):
            added.append(answer)
            progress.update(task, completed=len(added) + skipped)
        progress.update(task, completed=len(files))
    _report_added(added, skipped, json)


@app.command("list")
def list_collections(json: Json = False, server: Server = "", tls: Tls = False) -> None:
    """List the collections."""
    with connect(server, tls) as client:
        found = client.list_collections()
    if json:
        emit(found)
        return
    table(("collection", " images", " MB"), ((c.id, c.images, f"{c.total_bytes / 1e6:.1f}") for c in found))


@app.command()
def show(
    id: Id,  # noqa: A002
    images: Annotated[bool, typer.Option("--images", help="Its images instead of its features.")] = False,
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Show a collection with the features that it has, or its images."""
    with connect(server, tls) as client:
        if not images:
            _show(client.get_collection(id), json)
            return
        found = client.list_images(id)
    if json:
        emit(found)
        return
    rows = (
        (image.name, f"{image.width} x {image.height}", image.bytes, image.digest[:16]) for image in found
    )
    table(("image", "size", " bytes", "sha256"), rows)


@app.command()
def delete(id: Id, server: Server = "", tls: Tls = False) -> None:  # noqa: A002
    """Remove a collection with its images and features."""
    with connect(server, tls) as client:
        client.delete_collection(id)
        err.print(f"removed {id}")


@app.command()
def index(
    id: Id,  # noqa: A002
    *,
    layer: Annotated[list[str], typer.Option(help="Layer; repeat for several.", show_default=False)],
    pooling: Annotated[
        list[Pooling] | None, typer.Option(help="How maps become vectors; default: mean and max.")
    ] = None,
    parts: Annotated[int | None, typer.Option(help="Jobs that share the work; default 4.")] = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Only queue the job and print its name.")
    ] = False,
    model: Model = "",
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Extract the features of all images that lack them; Ctrl-C cancels, and another run goes on."""
    with connect(server, tls) as client:
        poolings: Any = [item.value for item in pooling or ()]
        operation = client.extract_features(id, layer, poolings=poolings, parts=parts, model=model)
        if not no_wait:
            with cancelling(operation):
                follow(operation, json)
            if operation.state.error:
                raise operation.state.error
        if json:
            emit(operation.state)
        elif no_wait:
            out.print(operation.name)


@app.command()
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
                Tile(f"{n.distance:.3f} {n.image.name}", contact.decoded(n.thumbnail))
                for n in answer.neighbours
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
    write(file, distances, contact.contact_sheet(rows))


@app.command()
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
            rows.append([Tile(f"{channel}: {hit.hit.value:.3g}", contact.decoded(hit.crop)) for hit in hits])
            if patterns:
                rows.append([Tile("", contact.decoded(hit.pattern)) for hit in hits])
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
    write(file, values, contact.contact_sheet(rows))


@app.command("map")
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
            thumbnails = (
                contact.decoded(client.get_image(id, image.name, thumbnail=MAP_TILE)) for image in images
            )
            write(file, found.points, contact.scatter(found.points, thumbnails, tile=MAP_TILE))


def _named(path: Path) -> list[tuple[str, Path]]:
    if path.is_dir():
        return [(found.relative_to(path).as_posix(), found) for found in image_files(path)]
    if not path.is_file():
        raise NotFound(f"images: there is no file or folder {path}", field="images")
    return [(path.name, path)]


def _tile(neighbour: Neighbour) -> Tile:
    return Tile(f"{neighbour.distance:.3f} {neighbour.image.name}", contact.decoded(neighbour.thumbnail))


def _picture(client: Client, id_: str, image: str) -> Picture:
    path = Path(image)
    return contact.decoded(
        path.read_bytes() if path.is_file() else client.get_image(id_, image, thumbnail=THUMBNAIL)
    )


def _report_added(added: list[Added], skipped: int, json: bool) -> None:
    if json:
        emit(added)
        return
    refused = [answer for answer in added if answer.error]
    for answer in refused:
        err.print(f"refused {answer.image.name}: {answer.error}")
    duplicates = sum(answer.duplicate for answer in added) + skipped
    out.print(f"added {len(added) - len(refused) - (duplicates - skipped)}, there already {duplicates}")
    if refused:
        raise typer.Exit(1)


def _show(collection: Collection, json: bool) -> None:
    if json:
        emit(collection)
        return
    out.print(f"[bold]{collection.id}[/] {collection.images} images, {collection.total_bytes / 1e6:.1f} MB")
    if collection.features:
        rows = ((f.model, f.layer, f.pooling.lower(), f.dimension, f.images) for f in collection.features)
        table(("model", "layer", "pooling", " dimension", " images"), rows)
