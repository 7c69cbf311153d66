"""What happens around every call, in layers: the access log, errors that become statuses, and more."""

from __future__ import annotations

import asyncio
import inspect
import logging
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
    """A line in the access log."""
    try:
        yield
    finally:
        access.info("%s %s %.1f ms", call.method, call.code, call.seconds * 1e3, extra={"request": call.id})


@asynccontextmanager
async def with_status(call: Call) -> AsyncIterator[None]:
    """Turns a ConvLensError into its rich status, and anything else into INTERNAL with the call's id.

    The id is in the log beside the traceback; the client never sees the traceback.
    """
    try:
        yield
    except ConvLensError as error:
        call.code, call.reason = code_pb2.Code.Name(error.code), error.reason
        await _abort(call.context, error)
    except (asyncio.CancelledError, GeneratorExit):
        call.code = "CANCELLED"
        raise
    except Exception:
        call.code = "INTERNAL"
        log.exception("error %s in %s", call.id, call.method, extra={"request": call.id})
        await _abort(call.context, Internal(f"unexpected error; the server's log has it as {call.id}"))


async def _abort(context: Context, error: ConvLensError) -> None:
    status = rpc_status.to_status(to_status(error))
    await context.abort(status.code, status.details, status.trailing_metadata)
