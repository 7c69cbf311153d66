"""Following a job on the terminal: a progress bar, Ctrl-C, and the result to a file."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from types import FrameType

import numpy as np
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column

from convlens.errors import ConvLensError, NotFound
from convlens_client import rendering
from convlens_client.cli.common import emit, err, out, write
from convlens_client.client import Operation
from convlens_client.rendering import Picture
from convlens_client.results import Array, JobMetadata, Snapshot


def follow(operation: Operation, json: bool = False) -> JobMetadata:
    """Shows each event until the job has ended: a progress bar, or one JSON object a line."""
    if json:
        for metadata in operation.watch():
            emit(metadata)
        return operation.wait()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[losses]}", style="dim", table_column=Column(ratio=1, no_wrap=True)),
    )
    with Progress(*columns, console=err, expand=True) as progress:
        task = progress.add_task(operation.metadata.technique, total=None, losses="")
        for metadata in operation.watch():
            progress.update(
                task,
                description=_describe(metadata),
                completed=metadata.step,
                total=metadata.total_steps or None,
                losses=" ".join(f"{name} {value:.4g}" for name, value in metadata.losses.items()),
            )
    return operation.wait()


def finish(
    operation: Operation,
    file: Path | None,
    name: str,
    *,
    json: bool,
    no_wait: bool,
    draw: Callable[[Operation], tuple[Array, Picture]] | None = None,
    tell: Callable[[Operation], None] = lambda operation: None,
    artifact: str = "",
) -> None:
    """Follows a new job to its end and writes what it made to `file`; or only tells its name.

    Ctrl-C cancels the job. `name` is a file name to suggest. `draw` makes what is written of the finished
    job; by default that is `artifact`, or its first one. `tell` says for people what came of it.
    """
    if not no_wait:
        with cancelling(operation) as interrupted:
            metadata = follow(operation, json)
        if interrupted.is_set() and metadata.state == "CANCELLED":
            err.print(f"cancelled after {metadata.step} of {metadata.total_steps} steps")
            raise typer.Exit(130)
        if draw is None or operation.state.error:
            write_artifact(operation, artifact, file)
        elif file is not None:
            write(file, *draw(operation))
    if json:
        emit(operation.state)
    elif no_wait or file is None:
        out.print(operation.name)
        hint = f"save it with: convlens jobs result {operation.name} --out {name}"
        out.print(f"[dim]{hint}[/]", soft_wrap=True)
    if not json and not no_wait:
        tell(operation)
    warn(operation.state)


def warn(state: Snapshot) -> None:
    """Says on stderr what is doubtful about the result."""
    for warning in state.warnings:
        err.print(f"convlens: warning: {warning}", soft_wrap=True)


@contextmanager
def cancelling(operation: Operation) -> Iterator[Event]:
    """Within it Ctrl-C asks the job to stop, and sets the event; a second Ctrl-C leaves at once.

    An exception raised by the signal could leave a lock inside gRPC held; so the handler starts a thread,
    and whoever follows the job sees it end.
    """
    interrupted = Event()

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        interrupted.set()
        Thread(target=_cancel, args=[operation], daemon=True).start()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def _cancel(operation: Operation) -> None:
    err.print(f"asking {operation.name} to stop ...")
    try:
        operation.cancel()
    except ConvLensError as error:
        err.print(f"convlens: {error}")


def write_artifact(operation: Operation, name: str, path: Path | None) -> None:
    """Writes an artifact of a finished job (its first one unless named); raises what the job failed with."""
    if operation.state.error:
        raise operation.state.error
    names = [artifact.name for artifact in operation.state.artifacts]
    if name and name not in names:
        raise NotFound(f"{operation.name} has no artifact {name!r}, but {', '.join(names)}")
    if path is not None:
        tensor = operation.artifact(name or names[0])
        if "." in (name or names[0]).rpartition("/")[2] and tensor.dtype == np.uint8:  # The bytes of a file.
            path.write_bytes(tensor.tobytes())
            err.print(f"wrote {path}")
        else:
            write(path, tensor, picture(tensor))


def picture(tensor: Array) -> Picture:
    """A picture of any artifact: images ([N,] 3, H, W) in [0, 1], maps ([N,] H, W) from 0 up, numbers (N)."""
    if tensor.ndim == 1:
        return rendering.feature_maps(tensor)
    if tensor.ndim == 2:
        return rendering.heat(tensor, threshold=1.0)
    if tensor.ndim == 3 and len(tensor) == 3:
        return rendering.photo(tensor)
    return rendering.grid([picture(one) for one in tensor])


def _describe(metadata: JobMetadata) -> str:
    where = f"on {metadata.device}" if metadata.device else ""
    ahead = f"({metadata.queue_position} ahead)" if metadata.queue_position else ""
    return " ".join(filter(None, (metadata.technique, metadata.state.lower(), where, ahead)))
