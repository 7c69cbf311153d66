"""Jobs: long work that is submitted, watched and read."""

from __future__ import annotations

import uuid
from typing import Final, Literal, get_args

from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf.message import Message

from convlens.errors import InvalidArgument
from convlens.v1 import job_pb2, job_pb2_grpc
from convlens_client.calls import Call, Method, Pages, ReadArtifact, Unary, Wait, Watch
from convlens_client.choice import chosen
from convlens_client.freezing import freeze, snapshot
from convlens_client.requests.model import model_ref
from convlens_client.results import Array, JobMetadata, QueueStats, Snapshot

Priority = Literal["NORMAL", "HIGH", "LOW"]
PRIORITIES: Final = {name: job_pb2.Priority.Value(f"PRIORITY_{name}") for name in get_args(Priority)}
_Operations = operations_pb2_grpc.OperationsStub


def submit(
    technique: Message,
    *,
    model: str = "",
    seed: int | None = None,
    request_id: str = "",
    priority: Priority = "NORMAL",
) -> Call[Snapshot]:
    """Queues a job of any technique, given by its message, such as `convlens.v1.job_pb2.DeepDream`.

    Submitting again under the same `request_id` (a UUID; a new one by default) returns the same job. The
    server must have a queue for the `priority`.
    """
    request = job_pb2.SubmitJobRequest(
        request_id=request_id or str(uuid.uuid4()),
        model=model_ref(model),
        seed=seed,
        priority=chosen(PRIORITIES, priority, "priority"),
    )
    arms = request.DESCRIPTOR.oneofs_by_name["technique"].fields
    arm = next((arm.name for arm in arms if arm.message_type == technique.DESCRIPTOR), None)
    if arm is None:
        allowed = f"the message of {' or '.join(arm.name for arm in arms)}"
        raise InvalidArgument.of("technique", technique.DESCRIPTOR.name, allowed)
    getattr(request, arm).CopyFrom(technique)
    return Unary(Method(job_pb2_grpc.JobServiceStub, "SubmitJob"), request, snapshot)


def operation(name: str) -> Call[Snapshot]:
    """One job by its name, "operations/<id>" or only the id."""
    request = operations_pb2.GetOperationRequest(name=operation_name(name))
    return Unary(Method(_Operations, "GetOperation"), request, snapshot)


def operations(*, state: str = "", technique: str = "") -> Call[tuple[Snapshot, ...]]:
    """The jobs that the server keeps, without previews: all, or those in a state, or of a technique."""
    terms = {"state": state.upper(), "technique": technique}
    filter_ = " AND ".join(f"{name}={value}" for name, value in terms.items() if value)
    request = operations_pb2.ListOperationsRequest(name="operations", filter=filter_)
    return Pages(Method(_Operations, "ListOperations"), request, "operations", snapshot)


def job_stats() -> Call[tuple[QueueStats, ...]]:
    """How the queues stand."""
    request = job_pb2.GetJobStatsRequest()
    return Unary(
        Method(job_pb2_grpc.JobServiceStub, "GetJobStats"),
        request,
        lambda reply: tuple(freeze(queue) for queue in reply.queues),
    )


def cancel(name: str) -> Call[None]:
    """Asks a job to stop."""
    request = operations_pb2.CancelOperationRequest(name=name)
    return Unary(Method(_Operations, "CancelOperation"), request, lambda _: None)


def delete(name: str) -> Call[None]:
    """Removes a finished job and its artifacts."""
    request = operations_pb2.DeleteOperationRequest(name=name)
    return Unary(Method(_Operations, "DeleteOperation"), request, lambda _: None)


def wait(name: str) -> Call[Snapshot]:
    """Waits until a job is done."""
    return Wait(name)


def watch(name: str) -> Call[JobMetadata]:
    """Follows a job's events."""
    return Watch(name)


def read_artifact(name: str, artifact: str) -> Call[Array]:
    """Reads one tensor that a job made."""
    return ReadArtifact(name, artifact)


def operation_name(name: str) -> str:
    """The full name of an operation given by its name or its id."""
    return f"operations/{name.removeprefix('operations/')}"
