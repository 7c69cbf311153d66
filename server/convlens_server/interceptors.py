"""What happens around every call: errors become statuses, and one line goes to the access log."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.rpc import code_pb2
from grpc_status import rpc_status

from convlens.errors import ConvLensError, Internal, to_status

log = logging.getLogger("convlens.server")
access = logging.getLogger("convlens.access")

Context = grpc.aio.ServicerContext[Any, Any]


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Turns a ConvLensError into its rich status, and anything else into INTERNAL with an id.

    The id is in the log beside the traceback; the client never sees the traceback. Health and reflection
    (`/grpc.…`) pass untouched.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The method's handler, guarded."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith("/grpc."):
            return handler
        if inspect.isasyncgenfunction(handler.unary_stream):
            return handler._replace(unary_stream=_stream(method, handler.unary_stream))
        if inspect.isasyncgenfunction(handler.stream_stream):
            return handler._replace(stream_stream=_stream(method, handler.stream_stream))
        return handler._replace(unary_unary=_unary(method, handler.unary_unary))


def _unary(method: str, behaviour: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def call(request: Any, context: Context) -> Any:
        async with _guard(method, context):
            return await behaviour(request, context)

    return call


def _stream(method: str, behaviour: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        async with _guard(method, context):
            async for reply in behaviour(request, context):
                yield reply

    return call


@asynccontextmanager
async def _guard(method: str, context: Context) -> AsyncIterator[None]:
    started, code = time.perf_counter(), "OK"
    try:
        yield
    except ConvLensError as error:
        code = code_pb2.Code.Name(error.code)
        await _abort(context, error)
    except (asyncio.CancelledError, GeneratorExit):
        code = "CANCELLED"
        raise
    except Exception:
        code, error_id = "INTERNAL", uuid.uuid4().hex
        log.exception("error %s in %s", error_id, method)
        await _abort(context, Internal(f"unexpected error; the server's log has it as {error_id}"))
    finally:
        access.info("%s %s %.1f ms", method, code, (time.perf_counter() - started) * 1e3)


async def _abort(context: Context, error: ConvLensError) -> None:
    status = rpc_status.to_status(to_status(error))
    await context.abort(status.code, status.details, status.trailing_metadata)
