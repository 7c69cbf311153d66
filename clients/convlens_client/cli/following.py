"""Following a job on the terminal: a progress bar, Ctrl-C, and the result to a file."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from types import FrameType
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column

from convlens.errors import ConvLensError
from convlens_client.cli import outcomes
from convlens_client.cli.common import emit, err, out
from convlens_client.cli.options import Shared
from convlens_client.cli.outcomes import Draw
from convlens_client.client import Operation
from convlens_client.results import JobMetadata, Snapshot


def follow(operation: Operation, json: bool = False) -> JobMetadata:
    """Shows each event until the job has ended: a progress bar, or one JSON object a line."""
    if json:
        for metadata in operation.watch():
            emit(metadata)
        return operation.wait()
    with progress() as shown:
        task = shown.add_task(operation.metadata.technique, total=None, losses="", time="")
        for metadata in operation.watch():
            shown.update(task, **told(metadata))
    return operation.wait()


def progress(console: Console = err) -> Progress:
    """A line that says within 80 columns what is done, what is left, how long that takes, and the losses."""
    return Progress(
        TextColumn("{task.description}", table_column=Column(no_wrap=True, max_width=34)),
        BarColumn(bar_width=8),
        MofNCompleteColumn(),
        TextColumn("{task.fields[time]}", style="progress.remaining"),
        TextColumn("{task.fields[losses]}", style="dim", table_column=Column(ratio=1, no_wrap=True)),
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
    unserved(given, operation)
    if given.no_wait:
        if not given.emitted(operation.state):
            out.print(operation.name)
            err.print(
                f"save it with: convlens jobs result {operation.name} --out {given.out or name}",
                soft_wrap=True,
            )
        return
    with cancelling(operation) as interrupted:
        metadata = follow(operation, given.json)
    if interrupted.is_set() and metadata.state == "CANCELLED":
        err.print(f"cancelled after {metadata.step} of {metadata.total_steps} steps")
        raise typer.Exit(130)
    save(given, operation, name, draw)
    if not given.emitted(operation.state):
        outcomes.tell(operation)
    warn(operation.state)


def save(given: Shared, operation: Operation, name: str, draw: Draw | None = None) -> None:
    """Writes what a job has made to `--out`, or under `name`; raises what the job failed with."""
    if operation.state.error:
        raise operation.state.error
    path = given.file(name, unasked=not given.json)
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
