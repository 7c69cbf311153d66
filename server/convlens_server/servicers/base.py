"""The ways in which RPCs are served that have nothing of their own to do around their work."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import cache, partial, wraps
from typing import Any, NamedTuple, TypeVar

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from convlens_server.collections.gateway import CollectionGateway
from convlens_server.jobs.job_gateway import JobGateway
from convlens_server.quick.inference_service import InferenceService, Replies, Streamed
from convlens_server.request.validation import validate

M = TypeVar("M", bound=Message)


class Gateways(NamedTuple):
    """The gateways that servicers hand their calls on to.

    Attributes:
        inference: runs networks in worker threads.
        jobs: reaches the job store, and makes room for calls that last as long as a job.
        collections: reaches the index and the files of collections.
        is_ready: tells whether the server takes calls.
    """

    inference: InferenceService
    jobs: JobGateway
    collections: CollectionGateway
    is_ready: Callable[[], bool]


class InferenceServicer:
    """A servicer whose RPCs run networks, or read what lies in the model repository."""

    def __init__(self, gateways: Gateways) -> None:
        self.inference = gateways.inference


S = TypeVar("S", bound=InferenceServicer)
Request = TypeVar("Request")
Reply = TypeVar("Reply")


def computed(
    method: Callable[[S, Request], Reply],
) -> Callable[[S, Request, Any], Coroutine[Any, Any, Reply]]:
    """An RPC whose one reply `method` computes from the request; `method` runs in a worker thread."""

    @wraps(method)
    async def serve(servicer: S, request: Request, context: Any) -> Reply:
        return await servicer.inference.executor.run(partial(method, servicer), request)

    return serve


def streamed(method: Callable[[S, Request], Replies]) -> Callable[[S, Request, Any], Streamed]:
    """An RPC whose replies are those of the generator `method`; it runs in worker threads."""

    @wraps(method)
    async def serve(servicer: S, request: Request, context: Any) -> Streamed:
        async for reply in servicer.inference.stream(partial(method, servicer), request):
            yield reply

    return serve


def validated(
    method: Callable[[Any, M], Coroutine[Any, Any, Reply]],
) -> Callable[[Any, M, Any], Coroutine[Any, Any, Reply]]:
    """An RPC whose one reply `method` gives for the request with its defaults, once it is within bounds."""

    @wraps(method)
    async def serve(servicer: Any, request: M, context: Any) -> Reply:
        return await method(servicer, validate(request))

    return serve


@cache
def _field_names(message: Descriptor) -> tuple[str, ...]:
    return tuple(message.fields_by_name)


def mirror(message: type[M], source: object, **given: Any) -> M:
    """A message with the `given` fields, and else the attributes of `source` that are named as its fields."""
    names = [name for name in _field_names(message.DESCRIPTOR) if name not in given]
    return message(**{name: getattr(source, name) for name in names}, **given)
