"""`convlens jobs`: find long work again, follow it, stop it, fetch what it made."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any, Final

import typer

from convlens_client.cli.common import emit, err, out, table, tagged
from convlens_client.cli.following import finish, follow, unserved, warn
from convlens_client.cli.options import STEPWISE, Filmed, Shared, command
from convlens_client.cli.outcomes import tell, write_outcome
from convlens_client.cli.outcomes.artifact import names, write_artifact
from convlens_client.client import Operation
from convlens_client.contract import bounds
from convlens_client.results import JobRequest, Snapshot

app = typer.Typer(no_args_is_help=True, help="Long work: list, show, follow, cancel, fetch.")

SO_FAR: Final = "so_far"
LATE: Final = 10.0
"""Seconds that the picture so far may come after the end of its job."""
Name = Annotated[str, typer.Argument(help="operations/<id> or the id.", show_default=False)]


@command("json", group=app, name="list")
def list_jobs(
    given: Shared,
    state: Annotated[str, typer.Option(help="Only those in this state, such as running.")] = "",
    technique: Annotated[str, typer.Option(help="Only those of this technique.")] = "",
    tag: Annotated[
        list[str] | None, typer.Option(help="Only those with this tag; repeat.", metavar="NAME=VALUE")
    ] = None,
) -> None:
    """List the jobs that the server keeps.

    Example: convlens jobs list --state running
    """
    found = given.client.operations(state=state, technique=technique, tags=tagged(tag or ()))
    jobs = [operation.state for operation in found]
    if given.emitted(jobs):
        return
    columns = ["job", "technique", "model", "state", " steps", " expected", "created"]
    tags = ["tags"] if any(job.metadata.tags for job in jobs) else []
    table([*columns, *tags], ([*_row(job), *[_tags(job.metadata.tags) for _ in tags]] for job in jobs))


@command("json", group=app)
def stats(given: Shared) -> None:
    """Show how the queues stand.

    Example: convlens jobs stats
    """
    queues = given.client.job_stats()
    if given.emitted(queues):
        return
    for queue in queues:
        priority = queue.priority.lower()
        workers = "" if queue.workers is None else f", {queue.workers} workers"
        out.print(f"{queue.queue} ({priority}): {queue.queued} waiting, {queue.running} running{workers}")
        if queue.queued:
            out.print(f"  the next one has waited for {queue.oldest_queued_seconds:.1f} s")
        for event, count in sorted(queue.counters.items()):
            out.print(f"  {event:<10} {count}")
        for device, rate in queue.throughput.items():
            out.print(f"  {device:<10} {rate:.3g} multiply-adds a second")


@command("json", group=app)
def show(given: Shared, name: Name) -> None:
    """Show one job: what it was asked for, how it stands, and what came of it.

    Example: convlens jobs show 0f3c9a5e
    """
    _show(given, given.client.operation(name), given.client.job_request(name))


Steps = Annotated[int | None, typer.Option(help="Steps of each octave, scale or objective.")]
FirstSteps = Annotated[
    int | None, typer.Option(help="Steps of the first scale, where there is such a number.")
]


@command("seed", *STEPWISE, group=app)
def rerun(
    given: Shared, name: Name, *, steps: Steps = None, first_steps: FirstSteps = None, **parameters: Any
) -> None:
    """Run a job once more, changed as the options say; its pictures stay on the server.

    Example: convlens jobs rerun 0f3c9a5e --seed 2 --out second.png
    """
    operation = given.client.rerun(name, steps=steps, first_steps=first_steps, **parameters)
    finish(given, operation, _file_name(operation))


@command(*(option for option in STEPWISE if option != "model"), group=app)
def resume(
    given: Shared, name: Name, *, steps: Steps = None, first_steps: FirstSteps = None, **parameters: Any
) -> None:
    """Go on from where a job ended: one that was cancelled or failed, or a finished one with more steps.

    Example: convlens jobs resume 0f3c9a5e --steps 40 --out more.png
    """
    operation = given.client.resume(name, steps=steps, first_steps=first_steps, **parameters)
    finish(given, operation, _file_name(operation))


@command("json", group=app)
def watch(given: Shared, name: Name) -> None:
    """Follow a job to its end; Ctrl-C leaves it running.

    Example: convlens jobs watch 0f3c9a5e
    """
    operation = given.client.operation(name)
    unserved(given, operation)
    follow(operation, given.json)
    _raise_for(operation.state)


@command("json", group=app)
def wait(
    given: Shared,
    name: Name,
    timeout: Annotated[float | None, typer.Option(help="Give up after so many seconds.")] = None,
) -> None:
    """Wait quietly until a job has ended.

    Example: convlens jobs wait 0f3c9a5e --timeout 600
    """
    operation = given.client.operation(name)
    operation.wait(timeout)
    _show(given, operation, given.client.job_request(name))
    _raise_for(operation.state)


@command(group=app)
def cancel(given: Shared, name: Name) -> None:
    """Ask a job to stop.

    Example: convlens jobs cancel 0f3c9a5e
    """
    operation = given.client.operation(name)
    if operation.state.done:
        how = f": {operation.state.error}" if operation.metadata.state == "FAILED" else ""
        err.print(f"{operation.name} has ended already: {operation.metadata.state}{how}", soft_wrap=True)
        return
    operation.cancel()
    err.print(f"asked {operation.name} to stop")


@command("out", "json", group=app)
def result(
    given: Filmed,
    name: Name,
    artifact: Annotated[
        str,
        typer.Option(
            help="One of its tensors, instead of what waiting for it would have written; so_far is that of a "
            "job that came to no end."
        ),
    ] = "",
) -> None:
    """Wait for a job and save what it made, as waiting for it would have; without --out, list it.

    Example: convlens jobs result 0f3c9a5e --out dream.png
    """
    operation = _with_late(given, given.client.operation(name), artifact)
    if not (artifact and artifact in names(operation)):
        operation.wait()
        _raise_for(operation.state)
    warn(operation.state)
    artifacts = (*operation.state.artifacts, *operation.metadata.artifacts)
    path = given.file(_file_name(operation))
    if path is not None and artifact:
        write_artifact(operation, artifact, path)
    elif path is not None:
        write_outcome(operation, path)
    if given.emitted(artifacts):
        return
    if not artifact:
        tell(operation)
    if path is None:
        rows = ((a.name, a.datatype, " x ".join(map(str, a.shape)), a.sha256) for a in artifacts)
        table(("artifact", "type", "shape", "sha256"), rows)


@command(group=app)
def delete(given: Shared, name: Name) -> None:
    """Remove a job that has ended, with its results.

    Example: convlens jobs delete 0f3c9a5e
    """
    operation = given.client.operation(name)
    operation.delete()
    err.print(f"removed {operation.name}")


def _show(given: Shared, operation: Operation, request: JobRequest) -> None:
    state, metadata = operation.state, operation.metadata
    if given.json:
        shown = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
        emit({**shown, "request": request})
        return
    facts = {
        "job": state.name,
        "state": metadata.state + (f": {state.error}" if state.error else ""),
        "technique": metadata.technique,
        "model": metadata.model,
        "seed": str(request.seed),
        "layers": ", ".join(request.parameters.get("layers", ())),
        "options": ", ".join(_options(request)),
        "pictures": "; ".join(
            f"{item.path.partition('.')[2]} {item.name or 'unnamed'}, SHA-256 {item.sha256}"
            for item in request.pictures
        ),
        "tags": _tags(metadata.tags),
        "steps": _steps(state),
        "losses": " ".join(f"{name} {value:.6g}" for name, value in metadata.losses.items()),
        "queue": f"{metadata.queue_position} ahead" if metadata.queue_position else "",
        "priority": metadata.priority.lower() if metadata.priority != "NORMAL" else "",
        "expected": _expected(state),
        "remaining": "" if metadata.remaining_seconds is None else f"{metadata.remaining_seconds:.3g} s",
        "device": metadata.device,
        "attempt": metadata.attempt or "",
        "created": _time(metadata.create_time),
        "started": _time(metadata.start_time),
        "ended": _time(metadata.end_time),
        "kept until": _time(metadata.expire_time),
        "artifacts": ", ".join(names(operation)),
        "warning": "; ".join(state.warnings),
    }
    for key, value in facts.items():
        if value:
            out.print(f"{key:<10} {value}", soft_wrap=True)
    if state.done and not state.error:
        tell(operation)


def _with_late(given: Shared, operation: Operation, artifact: str) -> Operation:
    """The job, of one that was just stopped once its worker has ended the step that `so_far` is of."""
    until = time.monotonic() + LATE
    while artifact == SO_FAR and artifact not in names(operation) and time.monotonic() < until:
        metadata = operation.metadata
        if not (metadata.final and metadata.state != "SUCCEEDED" and metadata.resumable and metadata.step):
            break
        time.sleep(0.2)
        operation = given.client.operation(operation.name)
    return operation


def _options(request: JobRequest) -> Iterator[str]:
    """What was asked for beside the layers, where it is not the default."""
    fields = getattr(request.message, request.technique).DESCRIPTOR.fields_by_name
    for name, value in request.parameters.items():
        limits = bounds(fields[name])
        default = limits.default if limits.HasField("default") else limits.default_text
        if name != "layers" and value != default:
            yield f"{name} {_option(value)}"


def _option(value: Any) -> str:
    """A parameter as people read it."""
    match value:
        case float():
            return f"{value:.6g}"
        case list():
            return " ".join(map(_option, value))
        case dict():
            return "(" + ", ".join(f"{name} {_option(item)}" for name, item in value.items()) + ")"
    return str(value)


def _tags(tags: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(tags.items()))


def _row(job: Snapshot) -> list[str]:
    m = job.metadata
    return [job.name, m.technique, m.model, _state(job), _steps(job), _expected(job), _time(m.create_time)]


def _file_name(operation: Operation) -> str:
    """What the file is called where `--out` is a folder."""
    return f"{operation.metadata.technique}-{operation.name.removeprefix('operations/')[:8]}.png"


def _raise_for(state: Snapshot) -> None:
    if state.error:
        raise state.error


def _state(state: Snapshot) -> str:
    ahead = f" ({state.metadata.queue_position} ahead)" if state.metadata.queue_position else ""
    return state.metadata.state + ahead


def _expected(state: Snapshot) -> str:
    return f"{state.metadata.expected_seconds:.3g} s" if state.metadata.expected_seconds else ""


def _steps(state: Snapshot) -> str:
    return f"{state.metadata.step}/{state.metadata.total_steps or '?'}"


def _time(moment: datetime | None) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment else ""
