"""Clients that leave, and clients that are too many, seen from outside."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from grpc._cython import cygrpc
from support.replies import error_of, tensors_of
from support.server_thread import serving
from support.worker_process import eventually

from convlens import errors, wire
from convlens.v1 import attribution_pb2, attribution_pb2_grpc, image_pb2, inspection_pb2, inspection_pb2_grpc
from convlens_server.app import App
from convlens_server.request.cancellation import Caller
from convlens_server.serving.left import GRPC, LEFT


@pytest.fixture(scope="module")
def narrow() -> Iterator[App]:
    """A server with one worker thread, where nobody may wait."""
    with serving(threads=1, lanes=1, max_waiting=0) as app:
        yield app


@pytest.fixture
def channel(narrow: App) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(narrow.address) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> attribution_pb2_grpc.AttributionServiceStub:
    return attribution_pb2_grpc.AttributionServiceStub(channel)


def attribute(count: int, side: int) -> attribution_pb2.AttributeRequest:
    image = image_pb2.Image(tensor=wire.to_tensor(np.full((3, side, side), 0.5, np.float32)))
    attributions = [attribution_pb2.Attribution(gradient={})] * count
    return attribution_pb2.AttributeRequest(images=[image], attributions=attributions)


SHORT, LONG = attribute(1, 96), attribute(32, 1024)  # Milliseconds, and tens of seconds.
MANY_PASSES = attribute(1, 96)
MANY_PASSES.attributions[0].rise.masks = 20_000  # RISE with its most masks, which would take minutes.


@pytest.fixture
def hopeful(narrow: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins what cannot end before its deadline."""
    monkeypatch.setattr(narrow.executor, "_check_end", lambda *_, **__: None)


def settled(app: App) -> bool:
    """Whether the server soon has nothing to do any more."""
    deadline = time.monotonic() + 5
    while app.executor.admitted and time.monotonic() < deadline:
        time.sleep(0.01)
    return app.executor.admitted == 0


def test_a_call_that_is_cancelled_makes_room_at_once(narrow: App, stub) -> None:
    call = stub.Attribute(MANY_PASSES)
    while not narrow.executor.busy:
        time.sleep(0.01)
    busy = error_of(stub.Attribute, SHORT)
    assert isinstance(busy, errors.ResourceExhausted)
    assert busy.retry_after
    call.cancel()
    assert settled(narrow)
    assert tensors_of(stub.Attribute(SHORT))[1]["0.gradient"].shape == (1, 3, 96, 96)


@pytest.mark.usefixtures("hopeful")
def test_a_call_past_its_deadline_makes_room_at_once(narrow: App, stub) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        list(stub.Attribute(LONG, timeout=0.3))
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert settled(narrow)
    assert tensors_of(stub.Attribute(SHORT))[1]["0.gradient"].shape == (1, 3, 96, 96)


@pytest.mark.usefixtures("hopeful")
def test_a_technique_of_many_passes_stops_between_them(narrow: App, stub) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        list(stub.Attribute(MANY_PASSES, timeout=0.5))
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert settled(narrow)


def test_a_slow_reader_stops_the_server_from_sending(narrow: App, channel) -> None:
    """A reply of 84 MB is not piled up in the server for a reader that sleeps."""
    layers = ["features.conv1", "features.relu1"]
    request = inspection_pb2.GetActivationsRequest(images=LONG.images, layers=layers)
    call = inspection_pb2_grpc.InspectionServiceStub(channel).GetActivations(request)
    first = next(call)
    eventually(lambda: not narrow.executor.busy)
    time.sleep(1.5)  # A reader that reads takes a fifth of that.
    assert (narrow.executor.admitted, narrow.executor.busy) == (1, 0)
    stub = attribution_pb2_grpc.AttributionServiceStub(channel)
    assert len(tensors_of(stub.Attribute(SHORT))[1]) == 1  # The one thread is free for others.
    _, found = tensors_of([first, *call])
    assert [value.shape for value in found.values()] == [(1, 40, 512, 512)] * 2
    assert settled(narrow)


def batch_error() -> Exception:
    return cygrpc.ExecuteBatchError('Failed "execute_batch": ()')  # type: ignore[no-any-return]


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (batch_error(), {logging.INFO: [], logging.DEBUG: ["DEBUG"]}),
        (cygrpc.InternalError("else"), {logging.INFO: ["ERROR"], logging.DEBUG: ["ERROR"]}),
        (ValueError("else"), {logging.INFO: ["ERROR"], logging.DEBUG: ["ERROR"]}),
    ],
)
def test_a_caller_who_has_left_is_one_line_for_those_who_debug(
    caplog: pytest.LogCaptureFixture, level: int, error: Exception, lines: dict[int, list[str]]
) -> None:
    GRPC.addFilter(LEFT)
    with caplog.at_level(level, GRPC.name):
        try:
            raise error
        except Exception:
            GRPC.exception("%s raised in core", type(error).__name__)
    assert [record.levelname for record in caplog.records] == lines[level]
    assert [bool(record.exc_info) for record in caplog.records] == ["ERROR" in lines[level]] * len(
        lines[level]
    )
    assert all("raised in core" in record.getMessage() for record in caplog.records)


def test_callers_who_leave_at_any_moment_leave_no_error_in_the_log(
    narrow: App, caplog: pytest.LogCaptureFixture
) -> None:
    data = SHORT.SerializeToString()
    for number in range(60):
        with grpc.insecure_channel(narrow.address) as channel:
            call = channel.unary_stream("/convlens.v1.AttributionService/Attribute")(data)
            time.sleep(0.0005 * number)
            call.cancel()
    assert settled(narrow)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_cancelled_is_what_a_left_caller_gets() -> None:
    caller = Caller()
    caller.leave()
    with pytest.raises(errors.Cancelled), caller.interrupting(lambda: None):
        pytest.fail("the pass was begun")
