"""What happens around every call, in layers: the access log, errors that become statuses, and more."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import grpc
from google.rpc import code_pb2
from grpc_status import rpc_status

from convlens.errors import ConvLensError, Internal, to_status
from convlens_server.calls import Call, Context, Layer, current

log = logging.getLogger("convlens.server")
access = logging.getLogger("convlens.access")

OPEN: Final = "/grpc.health.v1.Health/"
"""Probes have no credentials, and nothing to hide: their calls go through no layer."""
REQUEST_ID: Final = "x-request-id"
"""Metadata by which a client may name a call, and by which it gets the name in the end."""
SOUND_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
JUST_BEFORE: Final = 0.05
"""Seconds before its deadline at which a call that is cancelled has run out of time: the client's clock began
earlier, by the way of the request."""
KINDS: Final = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
Behaviour = Callable[..., Any]


class LayersInterceptor(grpc.aio.ServerInterceptor):
    """Takes every call of every service, health apart, through the same layers, outermost first."""

    def __init__(self, *layers: Layer) -> None:
        self._layers = layers

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The method's handler, within the layers."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(OPEN):
            return handler
        kind = next(kind for kind in KINDS if getattr(handler, kind))
        behaviour = getattr(handler, kind)
        wrap = _streaming if inspect.isasyncgenfunction(behaviour) else _replying
        return handler._replace(**{kind: wrap(behaviour, self._layers, method, kind)})


def _replying(behaviour: Behaviour, layers: Sequence[Layer], method: str, kind: str) -> Behaviour:
    async def call(request: Any, context: Context) -> Any:
        async with _within(layers, Call(method, context, kind)):
            return await behaviour(request, context)

    return call


def _streaming(behaviour: Behaviour, layers: Sequence[Layer], method: str, kind: str) -> Behaviour:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        async with _within(layers, Call(method, context, kind)):
            async for reply in behaviour(request, context):
                yield reply

    return call


@asynccontextmanager
async def _within(layers: Sequence[Layer], call: Call) -> AsyncIterator[None]:
    current.set(call)  # gRPC serves each call in a task of its own: nothing to undo.
    async with AsyncExitStack() as stack:
        for layer in layers:
            await stack.enter_async_context(layer(call))
        yield


@asynccontextmanager
async def logged(call: Call) -> AsyncIterator[None]:
    """A line in the access log, and the call's id for the client, who may also choose it."""
    given = call.header(REQUEST_ID)
    call.id = given if SOUND_ID.fullmatch(given) else call.id
    call.context.set_trailing_metadata(((REQUEST_ID, call.id),))
    try:
        yield
    finally:
        access.info("%s %s %.1f ms", call.method, call.code, call.seconds * 1e3, extra=_fields(call))


def _fields(call: Call) -> dict[str, object]:
    who = {"tenant": call.principal.tenant, "principal": call.principal.name} if call.principal else {}
    return {
        "request": call.id,
        "method": call.method,
        "code": call.code,
        "seconds": round(call.seconds, 6),
        "phases": {name: round(seconds, 6) for name, seconds in call.phases.items()},
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


@asynccontextmanager
async def with_status(call: Call) -> AsyncIterator[None]:
    """Turns a ConvLensError into its rich status, and anything else into INTERNAL with the call's id.

    The id is in the log beside the traceback; the client never sees the traceback.
    """
    try:
        yield
    except ConvLensError as error:
        call.code, call.reason = code_pb2.Code.Name(error.code), error.reason
        await _abort(call, error)
    except (asyncio.CancelledError, GeneratorExit):
        left = call.context.time_remaining()
        call.code = "CANCELLED" if left is None or left > JUST_BEFORE else "DEADLINE_EXCEEDED"
        raise
    except Exception:
        call.code = "INTERNAL"
        log.exception("error %s in %s", call.id, call.method, extra={"request": call.id})
        await _abort(call, Internal(f"unexpected error; the server's log has it as {call.id}"))


async def _abort(call: Call, error: ConvLensError) -> None:
    status = rpc_status.to_status(to_status(error))
    trailing = (*status.trailing_metadata, (REQUEST_ID, call.id))
    await call.context.abort(status.code, status.details, trailing)
