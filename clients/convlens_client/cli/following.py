"""Following a job on the terminal: a progress bar, Ctrl-C, and the result to a file."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from types import FrameType
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column

from convlens.errors import ConvLensError
from convlens_client.cli import outcomes
from convlens_client.cli.common import emit, err, out, write
from convlens_client.cli.options import Shared
from convlens_client.cli.outcomes import Draw
from convlens_client.cli.outcomes.artifact import picture
from convlens_client.client import Operation
from convlens_client.results import JobMetadata, Snapshot

Seen = Callable[[JobMetadata], None]


def follow(operation: Operation, json: bool = False, seen: Seen = lambda _: None) -> JobMetadata:
    """Shows each event until the job has ended: a progress bar, or one JSON object a line."""
    if json:
        for metadata in operation.watch():
            emit(metadata)
            seen(metadata)
        return operation.wait()
    with progress() as shown:
        task = shown.add_task(operation.metadata.technique, total=None, losses="", time="")
        for metadata in operation.watch():
            shown.update(task, **told(metadata))
            seen(metadata)
    return operation.wait()


def writing(operation: Operation, path: Path) -> Seen:
    """Writes each picture on the way, once, beside `path`: dream-step.000050.png beside dream.png."""
    written: set[str] = set()

    def seen(metadata: JobMetadata) -> None:
        for name in (artifact.name for artifact in metadata.artifacts if artifact.name not in written):
            tensor = operation.artifact(name)
            write(path.with_name(f"{path.stem}-{name}{path.suffix}"), tensor, picture(tensor))
            written.add(name)

    return seen


def progress(console: Console = err) -> Progress:
    """A line that says within 80 columns what is done, what is left, how long that takes, and the losses."""
    return Progress(
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, max_width=34)),
        BarColumn(bar_width=8),
        MofNCompleteColumn(),
        TextColumn("{task.fields[time]}", markup=False, style="progress.remaining"),
        TextColumn(
            "{task.fields[losses]}", markup=False, style="dim", table_column=Column(ratio=1, no_wrap=True)
        ),
        console=console,
        expand=True,
    )


def told(metadata: JobMetadata) -> dict[str, Any]:
    """What the line says of a job: while it runs, where is less than how far."""
    losses = " ".join(f"{name} {value:.4g}" for name, value in metadata.losses.items())
    running = metadata.state == "RUNNING"
    state = "" if running else metadata.state.lower()
    ahead = f"({metadata.queue_position} ahead)" if metadata.queue_position else ""
    return {
        "description": " ".join(filter(None, (metadata.technique, state, ahead))),
        "completed": metadata.step,
        "total": metadata.total_steps or None,
        "time": _time(metadata),
        "losses": losses,
    }


def _time(metadata: JobMetadata) -> str:
    """How long it will still run, as the server tells; once it has ended, how long it ran."""
    seconds = metadata.remaining_seconds
    if metadata.final and metadata.start_time and metadata.end_time:
        seconds = (metadata.end_time - metadata.start_time).total_seconds()
    if seconds is None:
        return "--:--" if metadata.state == "RUNNING" else ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def unserved(given: Shared, operation: Operation) -> None:
    """Says on stderr that no worker takes the jobs of this priority, where one waits for it."""
    if operation.metadata.state != "QUEUED":
        return
    with suppress(ConvLensError):  # Whoever may follow a job need not be allowed to see the queues.
        for queue in given.client.job_stats():
            if queue.priority == operation.metadata.priority and queue.workers == 0:
                priority = queue.priority.lower()
                err.print(
                    f"convlens: no worker serves priority {priority}: the job waits until one does",
                    soft_wrap=True,
                )


def finish(given: Shared, operation: Operation, name: str, *, draw: Draw | None = None) -> None:
    """Follows a new job to its end and writes what it made; or, with `--no-wait`, tells its name alone.

    Ctrl-C cancels the job. `name` is what the file is called where `--out` names none; with `--json`, nothing
    is written then. `draw` takes the place of what the table of outcomes draws.
    """
    if given.no_wait:
        unserved(given, operation)
        if not given.emitted(operation.state):
            out.print(operation.name)
            err.print(
                f"save it with: convlens jobs result {operation.name} --out {given.out or name}",
                soft_wrap=True,
            )
        return
    path = given.file(name, unasked=not given.json)
    with cancelling(operation) as interrupted:
        unserved(given, operation)
        metadata = follow(operation, given.json, writing(operation, path) if path else lambda _: None)
    if metadata.state != "SUCCEEDED":
        tell_how_to_go_on(metadata, operation.name, str(given.out or name))
    if interrupted.is_set() and metadata.state == "CANCELLED":
        err.print(f"cancelled after {metadata.step} of {metadata.total_steps} steps")
        raise typer.Exit(130)
    save(operation, path, draw)
    if not given.emitted(operation.state):
        outcomes.tell(operation)
    warn(operation.state)


def tell_how_to_go_on(metadata: JobMetadata, name: str, out: str) -> None:
    """Says which commands fetch the picture so far of a job that came to no end, and go on from it."""
    if metadata.resumable and (metadata.step or metadata.artifacts):
        err.print(
            f"the picture so far: convlens jobs result {name} --artifact so_far --out {out}", soft_wrap=True
        )
        err.print(f"go on from there: convlens jobs resume {name}", soft_wrap=True)


def save(operation: Operation, path: Path | None, draw: Draw | None = None) -> None:
    """Writes what a job has made; raises what the job failed with."""
    if operation.state.error:
        raise operation.state.error
    if path is not None:
        outcomes.write_outcome(operation, path, draw)


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
