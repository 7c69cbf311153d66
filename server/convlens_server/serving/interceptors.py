"""The middleware around every call: how it is composed, the access log, and errors that become statuses."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Final

import grpc
from google.rpc import code_pb2, status_pb2
from grpc_status import rpc_status

from convlens.errors import ConvLensError, Internal, ResourceExhausted, to_status
from convlens_server.edge.edge import Edge
from convlens_server.edge.settings import EdgeSettings
from convlens_server.identity.principal import current as current_principal
from convlens_server.request.request_context import (
    Middleware,
    Proceed,
    RequestContext,
    ServicerContext,
    afterwards,
    current,
)

log = logging.getLogger("convlens.server")
access = logging.getLogger("convlens.access")

OPEN: Final = "/grpc.health.v1.Health/"
"""Probes have no credentials, and nothing to hide: their calls go through no middleware, and an edge of their
own, where they hold little."""
REQUEST_ID: Final = "x-request-id"
"""Metadata by which a client may name a call, and by which it gets the name in the end."""
SOUND_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""The names that a client may give a call."""
JUST_BEFORE: Final = 0.05
"""A call that is cancelled with fewer seconds left has run out of time: the client's clock began earlier."""
NO_MEMORY: Final = ("Failed to allocate memory", "bad_alloc", "bad allocation", "out of memory")
"""What engines say when they are given no memory: ONNX Runtime, C++, TorchScript, CUDA."""
KINDS: Final = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
Behaviour = Callable[..., Any]
Serialize = Callable[[Any], bytes]


class MiddlewareInterceptor(grpc.aio.ServerInterceptor):
    """Takes each call of all services but health through the same middleware, outermost first.

    Args:
        middleware: runs when the headers of a call have come, before its request is read.
        edge: where requests are read and replies are sent; by default as settings are by default.
    """

    def __init__(self, *middleware: Middleware, edge: Edge | None = None) -> None:
        self._middleware = middleware
        self._edge = edge or Edge(EdgeSettings())
        self._open_edge = self._edge.of_probes()
        self._handlers: dict[str, Any] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The method's handler within the middleware, composed at the first call of the method."""
        method = handler_call_details.method
        if method in self._handlers:
            return self._handlers[method]
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        self._handlers[method] = self._wrapped(method, handler)
        return self._handlers[method]

    def _wrapped(self, method: str, handler: Any) -> Any:
        """A handler that is called when the headers have come, whatever the method's kind.

        gRPC would read a single request before it calls anybody. Here the middleware comes first, and refuses
        whom it does not know before a byte is read.
        """
        kind = next(kind for kind in KINDS if getattr(handler, kind))
        behaviour, serialize = getattr(handler, kind), _unless_bytes(handler.response_serializer)
        deserialize = getattr(behaviour, "deserialize", handler.request_deserializer)
        proceed = _proceeding(behaviour, serialize, streamed=kind.endswith("_stream"))
        is_open = method.startswith(OPEN)
        edge, middleware = (self._open_edge, (refusing,)) if is_open else (self._edge, self._middleware)
        serve = within(middleware, partial(edge.serve, proceed, deserialize))

        async def handle(_: Any, servicer_context: ServicerContext) -> Any:
            return await serve(RequestContext(method, servicer_context, kind))

        shape = "stream_stream" if kind.endswith("_stream") else "stream_unary"
        return getattr(grpc, f"{shape}_rpc_method_handler")(handle, None, serialize)


def within(middleware: Sequence[Middleware], proceed: Proceed) -> Proceed:
    """`proceed` within the middleware, outermost first."""
    for each in reversed(middleware):
        proceed = partial(_around, each, proceed)

    async def serve(context: RequestContext) -> Any:
        current.set(context)  # gRPC serves each call in a task of its own: nothing to undo.
        return await proceed(context)

    return serve


def _unless_bytes(serialize: Serialize) -> Serialize:
    """A serialiser that also takes replies that are serialised already."""
    return lambda reply: reply if isinstance(reply, bytes) else serialize(reply)


def _around(middleware: Middleware, proceed: Proceed, context: RequestContext) -> Awaitable[Any]:
    return middleware(context, proceed)


def _proceeding(behaviour: Behaviour, serialize: Serialize, *, streamed: bool) -> Proceed:
    """A servicer's method as what middleware calls: its replies go out by way of the context."""
    if not streamed:

        async def reply(context: RequestContext) -> bytes:
            message = serialize(await behaviour(context.request, context.servicer_context))
            context.reply.last(len(message))
            return message

        return reply
    if not inspect.isasyncgenfunction(behaviour):  # It writes its replies itself.
        return lambda context: behaviour(context.request, context.servicer_context)

    async def stream(context: RequestContext) -> None:
        async with aclosing(behaviour(context.request, context.servicer_context)) as replies:
            async for message in replies:
                data = serialize(message)
                await context.reply.write(data)

    return stream


async def logged(context: RequestContext, proceed: Proceed) -> Any:
    """Write a line to the access log, and send the call's id to the client, who may also choose it."""
    given = context.header(REQUEST_ID)
    context.id = given if SOUND_ID.fullmatch(given) else context.id
    context.servicer_context.set_trailing_metadata(((REQUEST_ID, context.id),))
    try:
        return await proceed(context)
    finally:
        afterwards(_report, context, context.seconds)


def _report(context: RequestContext, seconds: float) -> None:
    caller = current_principal.get()
    fields = {
        "request": context.id,
        "method": context.method,
        "code": context.code,
        "seconds": round(seconds, 6),
        "phases": {name: round(spent, 6) for name, spent in context.phases.items()},
        **({"tenant": caller.tenant, "principal": caller.name} if caller else {}),
    }
    access.info("%s %s %.1f ms", context.method, context.code, seconds * 1e3, extra=fields)


class OfCall(logging.Filter):
    """Adds the id of the current call to a record of the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        """True, so that every record is kept."""
        context = current.get()
        if context is not None and not hasattr(record, "request"):
            record.request = context.id
        return True


async def with_status(context: RequestContext, proceed: Proceed) -> Any:
    """Turn a ConvLensError into its rich status, and anything else into INTERNAL with the call's id.

    The id is in the log beside the traceback; the client never sees the traceback.
    """
    try:
        return await proceed(context)
    except ConvLensError as error:
        status = _status(context, error)
    except asyncio.CancelledError:
        ended = context.ended()
        if ended is None:
            left = context.servicer_context.time_remaining()
            context.code = "CANCELLED" if left is None or left > JUST_BEFORE else "DEADLINE_EXCEEDED"
            raise
        status = _status(context, ended)
    except Exception as error:
        if out_of_memory(error):
            log.warning("out of memory in %s: %s", context.method, error)
            text = "there is not enough memory for this call; send fewer or smaller images, or ask for less"
            status = _status(context, ResourceExhausted(text, reason="OUT_OF_MEMORY"))
        else:
            status = _status(context, _unexpected(context))
    return await _abort(context, status)


def _unexpected(context: RequestContext) -> ConvLensError:
    """Write the exception that is handled to the log, under the call's id."""
    log.exception("error %s in %s", context.id, context.method, extra={"request": context.id})
    return Internal(f"unexpected error; the server's log has it as {context.id}")


def out_of_memory(error: Exception) -> bool:
    """Whether Python, NumPy or an engine says that it cannot get memory; engines have no type for it."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY)


async def refusing(context: RequestContext, proceed: Proceed) -> Any:
    """Turn a ConvLensError into its rich status, and leave all else as it is."""
    try:
        return await proceed(context)
    except ConvLensError as error:
        status = _status(context, error)
    return await _abort(context, status)


def _status(context: RequestContext, error: ConvLensError) -> status_pb2.Status:
    context.code, context.reason = code_pb2.Code.Name(error.code), error.reason
    return to_status(error)


async def _abort(context: RequestContext, error: status_pb2.Status) -> None:
    """End the call; called when no exception is handled any more.

    gRPC keeps what `abort` raises with the call, in a cycle: with it the frames of whatever was being
    handled, and the request in them, until Python's collector comes.
    """
    context.request = None
    status = rpc_status.to_status(error)
    trailing = (*status.trailing_metadata, (REQUEST_ID, context.id))
    await context.servicer_context.abort(status.code, status.details, trailing)
