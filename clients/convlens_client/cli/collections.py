"""`convlens collections`: sets of images, to be filled, searched and mapped."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

from convlens.errors import NotFound
from convlens_client.cli import completion, outcomes, searches
from convlens_client.cli.common import err, out, table
from convlens_client.cli.following import cancelling, follow
from convlens_client.cli.options import Shared, command
from convlens_client.cli.searches import Id
from convlens_client.images import as_it_may_be
from convlens_client.requests import collection
from convlens_client.requests.collection import Named, add_images, image_files
from convlens_client.results import Added, Collection

app = typer.Typer(no_args_is_help=True, help="Sets of images: fill, search and map them.")
app.command()(searches.nearest)
app.command()(searches.top)
app.command("map")(searches.map_collection)


@command("json", group=app)
def create(given: Shared, id: Id) -> None:  # noqa: A002
    """Create an empty collection.

    Example: convlens collections create photos
    """
    _show(given, given.client.create_collection(id))


@command("json", timeout=None, group=app)
def add(
    given: Shared,
    id: Id,  # noqa: A002
    images: Annotated[list[Path], typer.Argument(help="Files, and folders with all below them.")],
) -> None:
    """Add images; those that the collection has are skipped, so that a broken run is simply run again.

    Example: convlens collections add photos ~/pictures
    """
    files = [named for path in images for named in _named(path)]
    added: list[Added] = []
    with Progress(console=err, disable=given.json) as progress:
        known = {image.digest for image in given.client.list_images(id)}
        skipped = 0
        task = progress.add_task("adding", total=len(files))

        def wanted() -> Any:
            nonlocal skipped
            for name, path in files:
                encoded = as_it_may_be(path, name)
                if hashlib.sha256(encoded).hexdigest() in known:
                    skipped += 1
                else:
                    yield Named(name, encoded)

        for answer in given.client.follow(add_images(id, wanted())):
            added.append(answer)
            progress.update(task, completed=len(added) + skipped)
        progress.update(task, completed=len(files))
    _report_added(given, added, skipped)


@command("json", group=app, name="list")
def list_collections(given: Shared) -> None:
    """List the collections.

    Example: convlens collections list
    """
    collections = given.client.list_collections()
    if given.emitted(collections):
        return
    rows = ((c.id, c.images, f"{c.total_bytes / 1e6:.1f}") for c in collections)
    table(("collection", " images", " MB"), rows)


@command("json", group=app)
def show(
    given: Shared,
    id: Id,  # noqa: A002
    images: Annotated[bool, typer.Option("--images", help="Its images instead of its features.")] = False,
) -> None:
    """Show a collection with the features that it has, or its images.

    Example: convlens collections show photos
    """
    if not images:
        _show(given, given.client.get_collection(id))
        return
    listed = given.client.list_images(id)
    if given.emitted(listed):
        return
    rows = ((i.name, f"{i.width} x {i.height}", i.bytes, i.digest[:16]) for i in listed)
    table(("image", "size", " bytes", "sha256"), rows)


@command(group=app)
def delete(given: Shared, id: Id) -> None:  # noqa: A002
    """Remove a collection with its images and features.

    Example: convlens collections delete photos
    """
    given.client.delete_collection(id)
    err.print(f"removed {id}")


@command("priority", "no_wait", "tags", "model", "json", request=collection.extract_features, group=app)
def index(
    given: Shared,
    id: Id,  # noqa: A002
    *,
    layer: Annotated[
        list[str],
        typer.Option(autocompletion=completion.layers, help="Layer; repeat for several.", show_default=False),
    ],
    **parameters: Any,
) -> None:
    """Extract the features of all images that lack them; Ctrl-C cancels, and another run goes on.

    Example: convlens collections index photos --layer features.relu2
    """
    operation = given.client.extract_features(id, layer, **parameters)
    if not given.no_wait:
        with cancelling(operation):
            follow(operation, given.json)
        if operation.state.error:
            raise operation.state.error
    if not given.emitted(operation.state):
        if given.no_wait:
            out.print(operation.name)
        else:
            outcomes.tell(operation)


def _named(path: Path) -> list[tuple[str, Path]]:
    if path.is_dir():
        return [(file.relative_to(path).as_posix(), file) for file in image_files(path)]
    if not path.is_file():
        raise NotFound(f"images: there is no file or folder {path}", field="images")
    return [(path.name, path)]


def _report_added(given: Shared, added: list[Added], skipped: int) -> None:
    if given.emitted(added):
        return
    refused = [answer for answer in added if answer.error]
    for answer in refused:
        err.print(f"refused {answer.image.name}: {answer.error}")
    duplicates = sum(answer.duplicate for answer in added) + skipped
    out.print(f"added {len(added) - len(refused) - (duplicates - skipped)}, there already {duplicates}")
    if refused:
        raise typer.Exit(1)


def _show(given: Shared, shown: Collection) -> None:
    if given.emitted(shown):
        return
    out.print(f"{shown.id} {shown.images} images, {shown.total_bytes / 1e6:.1f} MB", style="bold")
    if shown.features:
        rows = ((f.model, f.layer, f.pooling.lower(), f.dimension, f.images) for f in shown.features)
        table(("model", "layer", "pooling", " dimension", " images"), rows)
