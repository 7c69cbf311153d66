"""What happens around every call, in middleware: the access log, errors that become statuses, and more."""

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
from convlens_server.serving.request_context import (
    Context,
    Middleware,
    Proceed,
    RequestContext,
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
JUST_BEFORE: Final = 0.05
"""Seconds before its deadline at which a call that is cancelled has run out of time: the client's clock began
earlier, by the way of the request."""
KINDS: Final = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
Behaviour = Callable[..., Any]


class MiddlewareInterceptor(grpc.aio.ServerInterceptor):
    """Takes every call of every service, health apart, through the same middleware, outermost first."""

    def __init__(self, *middleware: Middleware) -> None:
        self._middleware = middleware
        self._handlers: dict[str, Any] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The method's handler, within the middleware."""
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

        async def call(request: Any, context: Context) -> Any:
            return await serve(RequestContext(method, context, kind, request))

        deserialize = getattr(behaviour, "deserialize", handler.request_deserializer)

        def weighed(data: bytes) -> Any:
            received.set(len(data))
            return deserialize(data)

        serialize = _unless_bytes(handler.response_serializer)
        return handler._replace(
            **{kind: call, "request_deserializer": weighed, "response_serializer": serialize}
        )


def within(middleware: Sequence[Middleware], proceed: Proceed) -> Proceed:
    """`proceed` within the middleware, outermost first."""
    for each in reversed(middleware):
        proceed = partial(_around, each, proceed)

    async def serve(call: RequestContext) -> Any:
        current.set(call)  # gRPC serves each call in a task of its own: nothing to undo.
        return await proceed(call)

    return serve


def _unless_bytes(serialize: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Takes replies that are serialised already, too."""
    return lambda reply: reply if isinstance(reply, bytes) else serialize(reply)


def _around(middleware: Middleware, proceed: Proceed, call: RequestContext) -> Awaitable[Any]:
    return middleware(call, proceed)


def _replying(behaviour: Behaviour) -> Proceed:
    return lambda call: behaviour(call.request, call.context)


def _streaming(behaviour: Behaviour) -> Proceed:
    async def proceed(call: RequestContext) -> None:
        async with aclosing(behaviour(call.request, call.context)) as replies:
            async for reply in replies:
                await _write(call.context, reply)

    return proceed


async def _write(context: Context, reply: Any) -> None:
    try:
        await context.write(reply)
    except grpc.aio.BaseError as error:  # The client has gone, and gRPC has not told this task yet.
        raise asyncio.CancelledError from error


async def logged(call: RequestContext, proceed: Proceed) -> Any:
    """A line in the access log, and the call's id for the client, who may also choose it."""
    given = call.header(REQUEST_ID)
    call.id = given if SOUND_ID.fullmatch(given) else call.id
    call.context.set_trailing_metadata(((REQUEST_ID, call.id),))
    try:
        return await proceed(call)
    finally:
        afterwards(_tell, call, call.seconds)


def _tell(call: RequestContext, seconds: float) -> None:
    access.info("%s %s %.1f ms", call.method, call.code, seconds * 1e3, extra=_fields(call, seconds))


def _fields(call: RequestContext, seconds: float) -> dict[str, object]:
    who = {"tenant": call.principal.tenant, "principal": call.principal.name} if call.principal else {}
    return {
        "request": call.id,
        "method": call.method,
        "code": call.code,
        "seconds": round(seconds, 6),
        "phases": {name: round(spent, 6) for name, spent in call.phases.items()},
        **who,
    }


class OfCall(logging.Filter):
    """Adds the id of the call that a line is about."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets every record pass."""
        call = current.get()
        if call is not None and not hasattr(record, "request"):
            record.request = call.id
        return True


async def with_status(call: RequestContext, proceed: Proceed) -> Any:
    """Turns a ConvLensError into its rich status, and anything else into INTERNAL with the call's id.

    The id is in the log beside the traceback; the client never sees the traceback.
    """
    try:
        return await proceed(call)
    except ConvLensError as error:
        call.code, call.reason = code_pb2.Code.Name(error.code), error.reason
        await _abort(call, error)
    except asyncio.CancelledError:
        left = call.context.time_remaining()
        call.code = "CANCELLED" if left is None or left > JUST_BEFORE else "DEADLINE_EXCEEDED"
        raise
    except Exception:
        call.code = "INTERNAL"
        log.exception("error %s in %s", call.id, call.method, extra={"request": call.id})
        await _abort(call, Internal(f"unexpected error; the server's log has it as {call.id}"))


async def _abort(call: RequestContext, error: ConvLensError) -> None:
    status = rpc_status.to_status(to_status(error))
    trailing = (*status.trailing_metadata, (REQUEST_ID, call.id))
    await call.context.abort(status.code, status.details, trailing)
