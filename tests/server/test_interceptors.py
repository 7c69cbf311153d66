"""What a client gets of an error, and what the log gets."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator

import grpc
import pytest
from support.replies import error_of

from convlens import errors
from convlens.v1 import model_pb2, model_pb2_grpc
from convlens_server.request.request_context import received
from convlens_server.serving import interceptors
from convlens_server.serving.interceptors import MiddlewareInterceptor, with_status


class Failing(model_pb2_grpc.ModelServiceServicer):
    """Raises what it is told to; GetFilters does so after one reply."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.seconds = 0.0
        self.received: list[int] = []

    async def GetModel(self, request, context):  # noqa: N802
        self.received.append(received.get())
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return model_pb2.GetModelResponse(model=model_pb2.Model(name=request.model.name))

    async def GetFilters(self, request, context):  # noqa: N802
        yield model_pb2.GetFiltersResponse()
        if self.error is not None:
            raise self.error


@pytest.fixture
async def failing() -> AsyncIterator[tuple[Failing, grpc.aio.Channel]]:
    servicer, server = (
        Failing(),
        grpc.aio.server(interceptors=[MiddlewareInterceptor(interceptors.logged, with_status)]),
    )
    model_pb2_grpc.add_ModelServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield servicer, model_pb2_grpc.ModelServiceStub(channel)
    await server.stop(0)


async def get(stub) -> errors.ConvLensError:
    with pytest.raises(grpc.RpcError) as raised:
        await stub.GetModel(model_pb2.GetModelRequest())
    return errors.from_rpc_error(raised.value)


async def stream(stub) -> errors.ConvLensError:
    call = stub.GetFilters(model_pb2.GetFiltersRequest())
    assert await call.read() == model_pb2.GetFiltersResponse()
    with pytest.raises(grpc.RpcError) as raised:
        await call.read()
    return errors.from_rpc_error(raised.value)


async def logged(caplog: pytest.LogCaptureFixture, pattern: str) -> None:
    """Wait for a line of the log, which may come a moment after the reply."""
    async with asyncio.timeout(5):
        while not re.search(pattern, caplog.text):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("ask", [get, stream])
async def test_an_error_of_ours_arrives_whole(failing, ask, caplog) -> None:
    servicer, stub = failing
    servicer.error = errors.ResourceExhausted("too much", field="images", reason="BUSY", retry_after=2.5)
    with caplog.at_level(logging.INFO):
        error = await ask(stub)
        await logged(caplog, r"ModelService/\w+ RESOURCE_EXHAUSTED \d+\.\d ms")
    assert isinstance(error, errors.ResourceExhausted)
    assert (error.message, error.field, error.reason, error.retry_after) == (
        "too much",
        "images",
        "BUSY",
        2.5,
    )


@pytest.mark.parametrize("ask", [get, stream])
async def test_an_unexpected_error_is_in_the_log_under_the_id_that_the_client_gets(
    failing, ask, caplog
) -> None:
    servicer, stub = failing
    servicer.error = ValueError("a secret of the machine")
    with caplog.at_level(logging.INFO):
        error = await ask(stub)
    assert isinstance(error, errors.Internal)
    assert "secret" not in error.message
    assert "Traceback" not in error.message
    found = re.search(r"[0-9a-f]{32}", error.message)
    assert found is not None
    assert f"error {found[0]} in" in caplog.text
    assert "a secret of the machine" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[ONNXRuntimeError] : 1 : FAIL : Failed to allocate memory of size 9"),
        RuntimeError("std::bad_alloc"),
    ],
)
async def test_who_is_given_no_memory_says_so(failing, error, caplog) -> None:
    servicer, stub = failing
    servicer.error = error
    found = await get(stub)
    assert isinstance(found, errors.ResourceExhausted)
    assert (found.reason, found.retry_after) == ("OUT_OF_MEMORY", None)
    assert "out of memory in /convlens.v1.ModelService/GetModel" in caplog.text
    assert not [record for record in caplog.records if record.exc_info]


async def test_good_calls_leave_one_line(failing, caplog) -> None:
    _, stub = failing
    with caplog.at_level(logging.INFO, "convlens.access"):
        reply = await stub.GetModel(model_pb2.GetModelRequest(model={"name": "x"}))
        await logged(caplog, "GetModel")
    assert reply.model.name == "x"
    (line,) = (record.message for record in caplog.records if record.name == "convlens.access")
    assert re.fullmatch(r"/convlens\.v1\.ModelService/GetModel OK \d+\.\d ms", line)


async def test_who_has_no_time_left_is_told_from_who_has_no_patience(failing, caplog) -> None:
    servicer, stub = failing
    servicer.seconds = 60.0
    with caplog.at_level(logging.INFO, "convlens.access"):
        with pytest.raises(grpc.RpcError):
            await stub.GetModel(model_pb2.GetModelRequest(), timeout=0.2)
        await logged(caplog, "GetModel DEADLINE_EXCEEDED")
        call = stub.GetModel(model_pb2.GetModelRequest(), timeout=30.0)
        await asyncio.sleep(0.2)
        call.cancel()
        await logged(caplog, "GetModel CANCELLED")


async def test_requests_are_weighed(failing) -> None:
    servicer, stub = failing
    requests = [model_pb2.GetModelRequest(model={"name": "x" * count}) for count in (5, 50_000, 1)]
    await asyncio.gather(*(stub.GetModel(request) for request in requests))
    assert sorted(servicer.received) == sorted(request.ByteSize() for request in requests)


async def test_the_id_of_a_call_comes_with_its_end(failing) -> None:
    servicer, stub = failing
    for error in (None, errors.NotFound("no"), ValueError("oh")):
        servicer.error = error
        call = stub.GetModel(model_pb2.GetModelRequest(), metadata=(("x-request-id", "mine"),))
        trailing = await call.trailing_metadata()
        assert dict(trailing)["x-request-id"] == "mine"
        if isinstance(error, ValueError):
            assert "mine" in await call.details()


def test_a_method_that_is_not_there_is_unimplemented(channel) -> None:
    method = channel.unary_unary("/convlens.v1.ModelService/Paint")
    assert isinstance(error_of(method, b""), errors.Unimplemented)
