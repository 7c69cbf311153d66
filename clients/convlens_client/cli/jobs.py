"""`convlens jobs`: find long work again, follow it, stop it, fetch what it made."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from convlens_client.cli.common import Json, Out, Server, Tls, connect, emit, err, out, table
from convlens_client.cli.following import follow, warn, write_artifact
from convlens_client.results import Snapshot

app = typer.Typer(no_args_is_help=True, help="Long work: list, show, follow, cancel, fetch.")

Name = Annotated[str, typer.Argument(help="operations/<id> or the id.", show_default=False)]


@app.command("list")
def list_jobs(
    state: Annotated[str, typer.Option(help="Only those in this state, such as running.")] = "",
    technique: Annotated[str, typer.Option(help="Only those of this technique.")] = "",
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """List the jobs that the server keeps."""
    with connect(server, tls) as client:
        found = [operation.state for operation in client.operations(state=state, technique=technique)]
    if json:
        emit(found)
        return
    rows = (
        (
            s.name,
            s.metadata.technique,
            s.metadata.model,
            s.metadata.state,
            _steps(s),
            _time(s.metadata.create_time),
        )
        for s in found
    )
    table(("job", "technique", "model", "state", " steps", "created"), rows)


@app.command()
def stats(json: Json = False, server: Server = "", tls: Tls = False) -> None:
    """Show how the queues stand."""
    with connect(server, tls) as client:
        found = client.job_stats()
    if json:
        emit(found)
        return
    for queue in found:
        priority = queue.priority.lower()
        out.print(f"{queue.queue} ({priority}): {queue.queued} waiting, {queue.running} running")
        if queue.queued:
            out.print(f"  the next one has waited for {queue.oldest_queued_seconds:.1f} s")
        for event, count in sorted(queue.counters.items()):
            out.print(f"  {event:<10} {count}")
        for device, rate in queue.throughput.items():
            out.print(f"  {device:<10} {rate:.3g} multiply-adds a second")


@app.command()
def show(name: Name, json: Json = False, server: Server = "", tls: Tls = False) -> None:
    """Show one job."""
    with connect(server, tls) as client:
        _show(client.operation(name).state, json)


@app.command()
def watch(name: Name, json: Json = False, server: Server = "", tls: Tls = False) -> None:
    """Follow a job to its end; Ctrl-C leaves it running."""
    with connect(server, tls) as client:
        operation = client.operation(name)
        follow(operation, json)
        _raise_for(operation.state)


@app.command()
def wait(
    name: Name,
    timeout: Annotated[float | None, typer.Option(help="Give up after so many seconds.")] = None,
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Wait quietly until a job has ended."""
    with connect(server, tls) as client:
        operation = client.operation(name)
        operation.wait(timeout)
        _show(operation.state, json)
        _raise_for(operation.state)


@app.command()
def cancel(name: Name, server: Server = "", tls: Tls = False) -> None:
    """Ask a job to stop."""
    with connect(server, tls) as client:
        operation = client.operation(name)
        operation.cancel()
        err.print(f"asked {operation.name} to stop")


@app.command()
def result(
    name: Name,
    *,
    file: Out = None,
    artifact: Annotated[str, typer.Option(help="Which of its tensors; default: the first.")] = "",
    json: Json = False,
    server: Server = "",
    tls: Tls = False,
) -> None:
    """Wait for a job and save what it made; without --out, list it."""
    with connect(server, tls) as client:
        operation = client.operation(name)
        operation.wait()
        write_artifact(operation, artifact, file)
        warn(operation.state)
        if json:
            emit(operation.state.artifacts)
        elif file is None:
            rows = (
                (a.name, a.datatype, " x ".join(map(str, a.shape)), a.sha256)
                for a in operation.state.artifacts
            )
            table(("artifact", "type", "shape", "sha256"), rows)


@app.command()
def delete(name: Name, server: Server = "", tls: Tls = False) -> None:
    """Remove a job that has ended, with its results."""
    with connect(server, tls) as client:
        operation = client.operation(name)
        operation.delete()
        err.print(f"removed {operation.name}")


def _show(state: Snapshot, json: bool) -> None:
    if json:
        emit(state)
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
        "expected": f"{metadata.expected_seconds:.3g} s" if metadata.expected_seconds else "",
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


def _raise_for(state: Snapshot) -> None:
    if state.error:
        raise state.error


def _steps(state: Snapshot) -> str:
    return f"{state.metadata.step}/{state.metadata.total_steps or '?'}"


def _time(moment: datetime | None) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment else ""
