"""Jobs: long work that is submitted, watched and read."""

from __future__ import annotations

import functools
import inspect
import uuid
from collections.abc import Callable, Generator, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, ParamSpec, get_args

from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf.message import Message

from convlens.errors import InvalidArgument
from convlens.v1 import job_pb2, job_pb2_grpc
from convlens.v1.image_pb2 import Image
from convlens_client.calls import Method, Pages, ReadArtifact, Rpc, Steps, Unary, Wait, Watch
from convlens_client.contract import arms, choose, fill, one_of, takes
from convlens_client.from_proto import described, field, snapshot
from convlens_client.images import ResizeLike, to_image, to_images
from convlens_client.requests.classes import by_name
from convlens_client.requests.model import model_ref
from convlens_client.results import Array, JobMetadata, JobRequest, QueueStats, Snapshot

Fields = Mapping[str, Any]
P = ParamSpec("P")

Priority = Literal["NORMAL", "HIGH", "LOW"]
PRIORITIES: Final = {name: job_pb2.Priority.Value(f"PRIORITY_{name}") for name in get_args(Priority)}
OF_ANY_JOB: Final = tuple(
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
    for name, annotation, default in (
        ("seed", "int | None", None),
        ("model", "str", ""),
        ("request_id", "str", ""),
        ("priority", "Priority", "NORMAL"),
        ("tags", "Mapping[str, str]", MappingProxyType({})),
        ("save_every", "int | None", None),
    )
)
"""What every job may be told, as `submit` takes it."""
_Jobs = job_pb2_grpc.JobServiceStub
_Operations = operations_pb2_grpc.OperationsStub


def submit(
    technique: Message,
    *,
    model: str = "",
    seed: int | None = None,
    request_id: str = "",
    priority: Priority = "NORMAL",
    tags: Mapping[str, str] = MappingProxyType({}),
    save_every: int | None = None,
) -> Rpc[Snapshot]:
    """Queues a job of any technique, given by its message, such as `convlens.v1.job_pb2.DeepDream`.

    Submitting again under the same `request_id` (a UUID; a new one by default) returns the same job. The
    server must have a queue for the `priority`. The job can be found again by its `tags`, names with values.
    With `save_every`, the picture is kept every so many steps, see `JobMetadata.artifacts`.
    """
    request = job_pb2.SubmitJobRequest(
        request_id=request_id or str(uuid.uuid4()),
        model=model_ref(model),
        seed=seed,
        priority=_priority(priority),
        tags=dict(tags),
        save_every=save_every,
    )
    known = arms(request.DESCRIPTOR)
    arm = next((name for name, message in known.items() if message == technique.DESCRIPTOR), None)
    if arm is None:
        allowed = f"the message of {' or '.join(known)}"
        raise InvalidArgument.of("technique", technique.DESCRIPTOR.name, allowed)
    getattr(request, arm).CopyFrom(technique)
    return Unary(Method(_Jobs, "SubmitJob"), request, snapshot)


def rerun(
    name: str,
    *,
    model: str = "",
    seed: int | None = None,
    request_id: str = "",
    priority: Priority | None = None,
    tags: Mapping[str, str] = MappingProxyType({}),
    save_every: int | None = None,
    **parameters: Any,
) -> Rpc[Snapshot]:
    """Queues the job `name` once more: its pictures stay on the server, and what is given here is changed.

    `parameters` are those of its technique. Tags are not taken over.
    """
    request = job_pb2.SubmitJobRequest(
        request_id=request_id or str(uuid.uuid4()),
        base=operation_name(name),
        model=model_ref(model) if model else None,
        seed=seed,
        priority=_priority(priority) if priority else job_pb2.PRIORITY_UNSPECIFIED,
        tags=dict(tags),
        save_every=save_every,
    )
    return Steps(_like(name, request, parameters))


def resume(
    name: str,
    *,
    request_id: str = "",
    priority: Priority | None = None,
    tags: Mapping[str, str] = MappingProxyType({}),
    save_every: int | None = None,
    **parameters: Any,
) -> Rpc[Snapshot]:
    """Queues a job that goes on from where the job `name` ended: cancelled, failed, or done, with more steps.

    `parameters` may be larger counts of steps; everything else stays. The techniques are those that make a
    picture step by step, see `SubmitJobRequest.resume`.
    """
    request = job_pb2.SubmitJobRequest(
        request_id=request_id or str(uuid.uuid4()),
        resume=operation_name(name),
        priority=_priority(priority) if priority else job_pb2.PRIORITY_UNSPECIFIED,
        tags=dict(tags),
        save_every=save_every,
    )
    return Steps(_like(name, request, parameters))


def _like(
    name: str, request: job_pb2.SubmitJobRequest, parameters: Mapping[str, Any]
) -> Generator[Rpc[Any], Any, Snapshot]:
    """Submit a request with parameters of the technique of the job `name`, which the server is asked for."""
    given = {key: value for key, value in parameters.items() if value is not None}
    if given:
        found: Snapshot = yield operation(name)
        choose(request, found.metadata.technique, given)
    submitted: Snapshot = yield Unary(Method(_Jobs, "SubmitJob"), request, snapshot)
    return submitted


def job_request(name: str) -> Rpc[JobRequest]:
    """What a job was asked for: its parameters, and its pictures by name and digest."""
    request = job_pb2.GetJobRequestRequest(name=operation_name(name))
    return Unary(Method(_Jobs, "GetJobRequest"), request, described)


def technique(
    message: type[Message], *, without: Iterable[str] = ()
) -> Callable[[Callable[P, Fields | None]], Callable[P, Rpc[Snapshot]]]:
    """A decorator: makes a function that queues a job of one that says what is special about a technique.

    Arguments that are called as fields of the message fill these, images at the size that `resize` says; the
    fields that the function returns come in their place. All other parameters of the message are taken by
    name, and those of `OF_ANY_JOB`, which every job has; help() shows them. A name that is none of these is a
    TypeError, which tells those that there are.

    Args:
        message: the technique.
        without: parameters of the message that the function fills itself, or that only the server sets.
    """
    hidden = {*without, *(each.name for each in OF_ANY_JOB)}
    fields = message.DESCRIPTOR.fields_by_name

    def decorate(build: Callable[P, Fields | None]) -> Callable[P, Rpc[Snapshot]]:
        own = inspect.signature(build)
        described: Any = takes({"": message.DESCRIPTOR}, without=hidden, more=OF_ANY_JOB)(build)
        shown = described.__signature__ = described.__signature__.replace(return_annotation="Rpc[Snapshot]")

        @functools.wraps(build)
        def queue(*args: P.args, **kwargs: P.kwargs) -> Rpc[Snapshot]:
            special = build(*args, **kwargs) or {}
            given = own.bind(*args, **kwargs)
            given.apply_defaults()
            parameters = given.arguments.pop("parameters")
            for name in parameters.keys() - shown.parameters.keys():
                raise TypeError(
                    f"{described.__name__}() takes no {name!r}, but {', '.join(shown.parameters)}"
                )
            options = {each.name: parameters.pop(each.name, each.default) for each in OF_ANY_JOB}
            resize = given.arguments.get("resize")
            carried = {
                name: _carried(fields[name], value, resize)
                for name, value in given.arguments.items()
                if name in fields and name not in special
            }
            filled = message()
            fill(filled, {**carried, **special, **parameters})
            return submit(filled, **options)

        return by_name(queue)

    return decorate


def operation(name: str) -> Rpc[Snapshot]:
    """One job by its name, "operations/<id>" or only the id."""
    request = operations_pb2.GetOperationRequest(name=operation_name(name))
    return Unary(Method(_Operations, "GetOperation"), request, snapshot)


def operations(
    *, state: str = "", technique: str = "", tags: Mapping[str, str] = MappingProxyType({})
) -> Rpc[tuple[Snapshot, ...]]:
    """The jobs that the server keeps, without previews: all, or some by state, technique or tags."""
    terms = [
        f"{name}={value}" for name, value in (("state", state.upper()), ("technique", technique)) if value
    ]
    filter_ = " AND ".join([*terms, *(f"tags.{name}={value}" for name, value in tags.items())])
    request = operations_pb2.ListOperationsRequest(name="operations", filter=filter_)
    return Pages(Method(_Operations, "ListOperations"), request, "operations", snapshot)


def job_stats() -> Rpc[tuple[QueueStats, ...]]:
    """The state of the server's queues."""
    return Unary(Method(_Jobs, "GetJobStats"), job_pb2.GetJobStatsRequest(), field("queues"))


def cancel(name: str) -> Rpc[None]:
    """Asks a job to stop."""
    request = operations_pb2.CancelOperationRequest(name=name)
    return Unary(Method(_Operations, "CancelOperation"), request, lambda _: None)


def delete(name: str) -> Rpc[None]:
    """Removes a finished job and its artifacts."""
    request = operations_pb2.DeleteOperationRequest(name=name)
    return Unary(Method(_Operations, "DeleteOperation"), request, lambda _: None)


def wait(name: str) -> Rpc[Snapshot]:
    """Waits until a job is done."""
    return Wait(name)


def watch(name: str) -> Rpc[JobMetadata]:
    """Follows a job's events."""
    return Watch(name)


def read_artifact(name: str, artifact: str) -> Rpc[Array]:
    """Reads one tensor that a job made."""
    return ReadArtifact(name, artifact)


def operation_name(name: str) -> str:
    """The full name of an operation given by its name or its id."""
    return f"operations/{name.removeprefix('operations/')}"


def _priority(name: str) -> job_pb2.Priority.ValueType:
    """The queue that a name means, in either case."""
    return one_of(PRIORITIES, name.upper() if name.upper() in PRIORITIES else name, "priority")


def _carried(field: Any, value: Any, resize: ResizeLike | None) -> Any:
    """The value of a field, images as the request carries them."""
    if field.message_type != Image.DESCRIPTOR or value is None:
        return value
    return to_images(value, resize) if field.is_repeated else to_image(value, resize, field.name)
