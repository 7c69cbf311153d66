"""`convlens collections`: sets of images, to be filled, searched and mapped."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

from convlens.errors import NotFound
from convlens_client.cli import searches
from convlens_client.cli.common import Json, Model, Server, Tls, connect, emit, err, out, table
from convlens_client.cli.following import cancelling, follow
from convlens_client.cli.searches import Id, Pooling
from convlens_client.requests.collection import Named, add_images, image_files
from convlens_client.results import Added, Collection

app = typer.Typer(no_args_is_help=True, help="Sets of images: fill, search and map them.")
app.command()(searches.nearest)
app.command()(searches.top)
app.command("map")(searches.map_collection)


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


def _named(path: Path) -> list[tuple[str, Path]]:
    if path.is_dir():
        return [(found.relative_to(path).as_posix(), found) for found in image_files(path)]
    if not path.is_file():
        raise NotFound(f"images: there is no file or folder {path}", field="images")
    return [(path.name, path)]


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
