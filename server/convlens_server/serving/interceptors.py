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
from google.rpc import code_pb2
from grpc_status import rpc_status

from convlens.errors import ConvLensError, Internal, to_status
from convlens_server.identity.principal import current as current_principal
from convlens_server.request.request_context import (
    Middleware,
    Proceed,
    RequestContext,
    ServicerContext,
    afterwards,
    current,
    received,
)

log = logging.getLogger("convlens.server")
access = logging.getLogger("convlens.access")

OPEN: Final = "/grpc.health.v1.Health/"
"""Probes have no credentials, and nothing to hide: their calls go through no middleware."""
REQUEST_ID: Final = "x-request-id"
"""Metadata by which a client may name a call, and by which it gets the name in the end."""
SOUND_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""The names that a client may give a call."""
JUST_BEFORE: Final = 0.05
"""A call that is cancelled with fewer seconds left has run out of time: the client's clock began earlier."""
KINDS: Final = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
Behaviour = Callable[..., Any]


class MiddlewareInterceptor(grpc.aio.ServerInterceptor):
    """Takes each call of all services but health through the same middleware, outermost first."""

    def __init__(self, *middleware: Middleware) -> None:
        self._middleware = middleware
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
        if handler is None or method.startswith(OPEN):
            return handler
        self._handlers[method] = self._wrapped(method, handler)
        return self._handlers[method]

    def _wrapped(self, method: str, handler: Any) -> Any:
        kind = next(kind for kind in KINDS if getattr(handler, kind))
        behaviour = getattr(handler, kind)
        proceed = _streaming(behaviour) if inspect.isasyncgenfunction(behaviour) else _replying(behaviour)
        serve = within(self._middleware, proceed)

        async def handle(request: Any, servicer_context: ServicerContext) -> Any:
            return await serve(RequestContext(method, servicer_context, kind, request))

        deserialize = getattr(behaviour, "deserialize", handler.request_deserializer)

        def weighed(data: bytes) -> Any:
            received.set(len(data))
            return deserialize(data)

        serialize = _unless_bytes(handler.response_serializer)
        return handler._replace(
            **{kind: handle, "request_deserializer": weighed, "response_serializer": serialize}
        )


def within(middleware: Sequence[Middleware], proceed: Proceed) -> Proceed:
    """`proceed` within the middleware, outermost first."""
    for each in reversed(middleware):
        proceed = partial(_around, each, proceed)

    async def serve(context: RequestContext) -> Any:
        current.set(context)  # gRPC serves each call in a task of its own: nothing to undo.
        return await proceed(context)

    return serve


def _unless_bytes(serialize: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """A serialiser that also takes replies that are serialised already."""
    return lambda reply: reply if isinstance(reply, bytes) else serialize(reply)


def _around(middleware: Middleware, proceed: Proceed, context: RequestContext) -> Awaitable[Any]:
    return middleware(context, proceed)


def _replying(behaviour: Behaviour) -> Proceed:
    return lambda context: behaviour(context.request, context.servicer_context)


def _streaming(behaviour: Behaviour) -> Proceed:
    async def proceed(context: RequestContext) -> None:
        async with aclosing(behaviour(context.request, context.servicer_context)) as replies:
            async for reply in replies:
                await _write(context.servicer_context, reply)

    return proceed


async def _write(context: ServicerContext, reply: Any) -> None:
    try:
        await context.write(reply)
    except grpc.aio.BaseError as error:  # The client has gone, and gRPC has not told this task yet.
        raise asyncio.CancelledError from error


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
        context.code, context.reason = code_pb2.Code.Name(error.code), error.reason
        await _abort(context, error)
    except asyncio.CancelledError:
        left = context.servicer_context.time_remaining()
        context.code = "CANCELLED" if left is None or left > JUST_BEFORE else "DEADLINE_EXCEEDED"
        raise
    except Exception:
        context.code = "INTERNAL"
        log.exception("error %s in %s", context.id, context.method, extra={"request": context.id})
        await _abort(context, Internal(f"unexpected error; the server's log has it as {context.id}"))


async def _abort(context: RequestContext, error: ConvLensError) -> None:
    status = rpc_status.to_status(to_status(error))
    trailing = (*status.trailing_metadata, (REQUEST_ID, context.id))
    await context.servicer_context.abort(status.code, status.details, trailing)
