"""`convlens jobs`: find long work again, follow it, stop it, fetch what it made."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from convlens_client.cli.common import err, out, table
from convlens_client.cli.following import follow, unserved, warn
from convlens_client.cli.options import Shared, command
from convlens_client.cli.outcomes import tell, write_outcome
from convlens_client.cli.outcomes.artifact import write_artifact
from convlens_client.client import Operation
from convlens_client.results import Snapshot

app = typer.Typer(no_args_is_help=True, help="Long work: list, show, follow, cancel, fetch.")

Name = Annotated[str, typer.Argument(help="operations/<id> or the id.", show_default=False)]


@command("json", group=app, name="list")
def list_jobs(
    given: Shared,
    state: Annotated[str, typer.Option(help="Only those in this state, such as running.")] = "",
    technique: Annotated[str, typer.Option(help="Only those of this technique.")] = "",
) -> None:
    """List the jobs that the server keeps.

    Example: convlens jobs list --state running
    """
    jobs = [operation.state for operation in given.client.operations(state=state, technique=technique)]
    if given.emitted(jobs):
        return
    rows = (
        (job.name, m.technique, m.model, _state(job), _steps(job), _expected(job), _time(m.create_time))
        for job, m in ((job, job.metadata) for job in jobs)
    )
    table(("job", "technique", "model", "state", " steps", " expected", "created"), rows)


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
    """Show one job, with what came of it once it has ended.

    Example: convlens jobs show 0f3c9a5e
    """
    _show(given, given.client.operation(name))


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
    _show(given, operation)
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
    given: Shared,
    name: Name,
    artifact: Annotated[
        str, typer.Option(help="One of its tensors, instead of what waiting for it would have written.")
    ] = "",
) -> None:
    """Wait for a job and save what it made, as waiting for it would have; without --out, list it.

    Example: convlens jobs result 0f3c9a5e --out dream.png
    """
    operation = given.client.operation(name)
    operation.wait()
    _raise_for(operation.state)
    warn(operation.state)
    artifacts = operation.state.artifacts
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


def _show(given: Shared, operation: Operation) -> None:
    state = operation.state
    if given.emitted(state):
        return
    metadata = state.metadata
    facts = {
        "job": state.name,
        "state": metadata.state + (f": {state.error}" if state.error else ""),
        "technique": metadata.technique,
        "model": metadata.model,
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
        "artifacts": ", ".join(artifact.name for artifact in state.artifacts),
        "warning": "; ".join(state.warnings),
    }
    for key, value in facts.items():
        if value:
            out.print(f"{key:<10} {value}")
    if state.done and not state.error:
        tell(operation)


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
