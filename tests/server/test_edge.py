"""What clients may hold of a server: requests that do not end, replies that nobody reads, connections."""

from __future__ import annotations

import asyncio
import gzip
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from support.http2 import Connection, message_head
from support.replies import error_of
from support.server_thread import serving

from convlens import wire
from convlens.errors import InvalidArgument, ResourceExhausted, Unauthenticated, Unavailable, from_rpc_error
from convlens.v1 import image_pb2, inspection_pb2
from convlens.v1.inspection_pb2_grpc import InspectionServiceStub
from convlens_server.app import App
from convlens_server.edge import replies as edge_replies
from convlens_server.edge import uploads as uploads_module
from convlens_server.edge.connections import LOOKAHEAD_BYTES, Peer
from convlens_server.edge.replies import LARGE, Replies, Reply
from convlens_server.edge.room import Room
from convlens_server.edge.uploads import COPIES, HALF_LIFE, MOST_KNOWN, Had, Uploads
from convlens_server.identity.keys import KeyFile, issue

MIB = 1 << 20
CLASSIFY = "/convlens.v1.InspectionService/Classify"
ACTIVATIONS = "/convlens.v1.InspectionService/GetActivations"
METHODS = {
    "unary_unary": CLASSIFY,
    "unary_stream": ACTIVATIONS,
    "stream_stream": "/convlens.v1.InspectionService/StreamFeatures",
    "reflection": "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
}


@pytest.fixture(scope="module", autouse=True)
def _embedded_model_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whatever the user's own repository has: the layers asked for here are those of `patterns`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONVLENS_MODELS", str(tmp_path_factory.mktemp("models")))
        yield


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """An API key, and the file that has it."""
    path = tmp_path_factory.mktemp("edge") / "keys.json"
    secret, kept = issue("red")
    path.write_text(KeyFile(keys=(kept,)).model_dump_json())
    return secret, path


@pytest.fixture(scope="module")
def closed(key: tuple[str, Path]) -> Iterator[App]:
    """A server that asks for a key, and has room for two of the largest messages."""
    with serving(
        api_keys=key[1], max_request_bytes=4 * MIB, upload_megabytes=8, upload_seconds=1.0, threads=1, lanes=1
    ) as app:
        yield app


def until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def ended(connection: Connection) -> bool:
    """Whether the server has ended what was begun, or all."""
    connection.pump(0.01)
    return bool(connection.ended) or connection.closed


def activations(images: int = 8) -> bytes:
    """A request of some kilobytes whose reply has megabytes."""
    request = inspection_pb2.GetActivationsRequest(layers=["features.conv1", "features.relu1"])
    pixels = wire.to_tensor(np.zeros((96, 96, 3), np.uint8))
    request.images.extend([image_pb2.Image(tensor=pixels)] * images)
    return request.SerializeToString()


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_stranger_is_refused_before_a_message_is_taken(closed: App, method: str) -> None:
    with Connection(closed.address) as connection:
        stream = connection.begin(method)
        took = connection.send(stream, message_head(4 * MIB) + bytes(3 * MIB))
        connection.pump(0.1)
        assert stream in connection.ended
        assert took <= LOOKAHEAD_BYTES


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_what_is_no_message_is_said_to_be_none_and_only_to_whom_is_known(
    closed: App, key: tuple[str, Path], method: str, caplog: pytest.LogCaptureFixture
) -> None:
    bearer = [("authorization", f"Bearer {key[0]}")]
    with grpc.insecure_channel(closed.address) as channel:
        call = channel.stream_stream(method)
        for metadata, error in ((None, Unauthenticated), (bearer, InvalidArgument)):
            with pytest.raises(grpc.RpcError) as raised:
                list(call(iter([b"\xff\xff\xff"]), metadata=metadata, timeout=10))
            assert isinstance(from_rpc_error(raised.value), error)
    assert not [record for record in caplog.records if record.exc_info]


def test_a_call_without_a_message_is_told_so(closed: App, key: tuple[str, Path]) -> None:
    with grpc.insecure_channel(closed.address) as channel:
        call = channel.stream_stream(CLASSIFY)(iter([]), metadata=[("authorization", f"Bearer {key[0]}")])
        with pytest.raises(grpc.RpcError) as raised:
            list(call)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_messages_are_read_as_there_is_room_and_those_that_stall_end(
    closed: App, key: tuple[str, Path]
) -> None:
    """One caller has half of the room, which is that of one message of the largest size."""
    connections = [Connection(closed.address) for _ in range(4)]
    took: dict[int, int] = {}

    def upload(number: int) -> None:
        connection = connections[number]
        stream = connection.begin(CLASSIFY, authorization=f"Bearer {key[0]}")
        took[number] = connection.send(stream, message_head(4 * MIB) + bytes(3 * MIB), seconds=0.8)
        until(lambda: ended(connection))

    threads = [threading.Thread(target=upload, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(took.values())[:3] == [LOOKAHEAD_BYTES] * 3
    assert max(took.values()) > 3 * MIB
    assert all(connection.ended for connection in connections)
    for connection in connections:
        connection.close()


def test_a_stream_whose_next_message_does_not_come_is_ended(closed: App, key: tuple[str, Path]) -> None:
    with grpc.insecure_channel(closed.address) as channel:

        def requests() -> Iterator[inspection_pb2.StreamFeaturesRequest]:
            yield inspection_pb2.StreamFeaturesRequest(options={"layer": "features.conv1"})
            time.sleep(3)

        call = InspectionServiceStub(channel).StreamFeatures(
            requests(), metadata=[("authorization", f"Bearer {key[0]}")]
        )
        with pytest.raises(grpc.RpcError) as raised:
            next(call)
    error = from_rpc_error(raised.value)
    assert isinstance(error, Unavailable)
    assert (error.reason, error.retry_after) == ("UPLOAD_STALLED", 1.0)


def test_compressed_requests_are_expanded_for_whom_is_known_and_to_the_limit(
    closed: App, key: tuple[str, Path]
) -> None:
    with grpc.insecure_channel(closed.address) as channel:

        def code(size: int, **metadata: str) -> grpc.StatusCode:
            call = channel.unary_unary(CLASSIFY)
            with pytest.raises(grpc.RpcError) as raised:
                call(
                    bytes(size),
                    metadata=list(metadata.items()),
                    timeout=10,
                    compression=grpc.Compression.Gzip,
                )
            return raised.value.code()

        known = {"authorization": f"Bearer {key[0]}"}
        assert code(1 * MIB) is grpc.StatusCode.UNAUTHENTICATED
        assert code(1 * MIB, **known) is grpc.StatusCode.INVALID_ARGUMENT  # Read, and no message.
        assert code(50 * MIB, **known) is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_compression_can_be_switched_off() -> None:
    with serving(compressed_requests=False) as app, grpc.insecure_channel(app.address) as channel:
        call = channel.unary_unary(CLASSIFY, request_serializer=bytes)
        assert error_of(call, bytes(1000)).code == InvalidArgument.code
        with pytest.raises(grpc.RpcError) as raised:
            call(bytes(1000), compression=grpc.Compression.Gzip)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_bomb_of_gzip_in_a_stranger_hand_stays_compressed(closed: App) -> None:
    data = gzip.compress(bytes(4 * MIB))
    with Connection(closed.address) as connection:
        stream = connection.begin(CLASSIFY, grpc_encoding="gzip")
        connection.send(stream, message_head(len(data), compressed=True) + data, end=True)
        assert until(lambda: ended(connection))


async def test_places_are_given_in_order_and_each_leaves_as_many_as_it_has() -> None:
    uploads = Uploads(total=4 * COPIES, largest=1, seconds=5)
    got: list[str] = []

    async def take(caller: str) -> None:
        await uploads.take(caller)
        got.append(caller)

    tasks = [asyncio.create_task(take(caller)) for caller in ("red",) * 4 + ("blue", "green", "blue")]
    await asyncio.sleep(0.01)
    assert sorted(got) == ["blue", "green", "red", "red"]
    tasks[2].cancel()
    await asyncio.sleep(0)
    for caller in ("green", "red"):
        uploads.give(caller, COPIES)
    await asyncio.sleep(0.01)
    assert len(got) == 4  # Two places are free: who has one may not have a second.
    uploads.give("red", COPIES)
    await asyncio.sleep(0.01)
    assert got[4:] == ["blue", "red"]  # Who has had less comes first.
    await asyncio.gather(*tasks, return_exceptions=True)
    assert uploads.room.held == 3 * COPIES


async def test_who_waits_too_long_for_room_is_told_when_to_come_back() -> None:
    uploads = Uploads(total=1, largest=1, seconds=0.05)
    for _ in range(2):
        await uploads.take(None)
    with pytest.raises(ResourceExhausted) as raised:
        await uploads.take("red")
    assert (raised.value.reason, raised.value.retry_after) == ("UPLOAD_BYTES", 1.0)
    uploads.give(None, COPIES)
    await uploads.take("red")


async def test_who_has_had_more_than_others_gives_up_a_place_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Six who stall share four places; a seventh, who does not, always finds one at once."""
    monkeypatch.setattr(uploads_module, "LITTLE", 0.02)
    uploads = Uploads(total=4 * COPIES, largest=1, seconds=60)
    ended: list[str] = []

    async def stall(caller: str) -> None:
        place = await uploads.take(caller)
        try:
            await uploads.read(place, asyncio.Event().wait())
        except Unavailable as error:
            ended.append(str(error))
        finally:
            uploads.give(caller, uploads.size)

    async def again(caller: str) -> None:
        while True:
            await stall(caller)

    hostile = [asyncio.create_task(again(f"hostile-{number % 6}")) for number in range(18)]
    await asyncio.sleep(0.2)
    waited = []
    for _ in range(20):
        began = time.monotonic()
        place = await uploads.take("ordinary")
        waited.append(time.monotonic() - began)
        assert await uploads.read(place, asyncio.sleep(0.001, "a message")) == "a message"
        uploads.give("ordinary", uploads.size)
    assert max(waited) < 0.1
    assert ended
    assert all("others, who have had less" in text for text in ended)
    for task in hostile:
        task.cancel()
    await asyncio.gather(*hostile, return_exceptions=True)
    assert uploads.room.held == 0


async def test_what_was_had_is_halved_by_and_by(monkeypatch: pytest.MonkeyPatch) -> None:
    now, room = 100.0, Room(total=10)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    had = Had(room)
    assert had.by("red") == 0
    room.take("red", 4)
    now += 1e-3
    assert had.by("red") == pytest.approx(4e-3, rel=1e-3)
    now += 1e6  # As long as one likes: 4 for the mean life of what is forgotten.
    assert had.by("red") == pytest.approx(4 * HALF_LIFE / np.log(2))
    room.give("red", 4)
    now += 3 * HALF_LIFE
    assert had.by("red") == pytest.approx(4 * HALF_LIFE / np.log(2) / 8)


def test_who_has_had_nothing_for_long_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now, room = 100.0, Room(total=10)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    had = Had(room)
    room.take("red", 1)
    for number in range(10 * MOST_KNOWN):
        had.by("red" if number == 0 else str(number))
        now += 1
    assert len(had._until) <= MOST_KNOWN
    assert "red" in had._until


async def test_those_who_have_had_alike_do_not_end_each_other() -> None:
    uploads = Uploads(total=2 * COPIES, largest=1, seconds=0.3)
    places = [await uploads.take(caller) for caller in ("red", "blue")]
    with pytest.raises(ResourceExhausted):
        await uploads.take("green")  # They have had 0.3 seconds each, which is little.
    assert not any(place.given_up for place in places)


@pytest.mark.parametrize("hostile", [1, 2, 5])
def test_however_many_take_all_they_can_a_share_is_left(hostile: int) -> None:
    """In whatever order pieces come and go, each has a share in the end, and leaves one."""
    room, random = Room(total=2000), np.random.default_rng(hostile)
    for _ in range(8000):
        caller = f"hostile-{random.integers(hostile)}"
        if random.random() < 0.02 and room.of(caller):
            room.give(caller, 1)
        else:
            room.take(caller, 1)
    share = 2000 / (hostile + 1)
    assert room.free == pytest.approx(share, rel=0.05)
    assert [room.of(f"hostile-{number}") for number in range(hostile)] == pytest.approx(
        [share] * hostile, rel=0.05
    )
    assert room.take("ordinary", int(0.9 * share))


def test_replies_leave_as_much_as_they_hold_and_all_is_for_one_alone() -> None:
    replies = Replies(total=8 * MIB, seconds=1)
    replies.add("red", 3 * MIB)
    with pytest.raises(ResourceExhausted, match=r"hold 3\.0 MiB, 3\.0 of them for this caller") as raised:
        replies.add("red", 2 * MIB)
    assert (raised.value.reason, raised.value.retry_after) == ("REPLY_BYTES", 1.0)
    with pytest.raises(ResourceExhausted, match=r"3\.0 MiB, 0\.0 of them"):
        replies.add("blue", 5 * MIB)  # One of eight is left to others.
    replies.add("blue", 4 * MIB)
    replies.add("green", MIB // 2)
    with pytest.raises(ResourceExhausted, match="ask for less") as raised:
        replies.add("green", 9 * MIB)
    assert raised.value.retry_after is None
    for caller, size in (("green", MIB // 2), ("blue", 4 * MIB), ("red", 3 * MIB)):
        replies.give(caller, size)
    replies.add("red", 8 * MIB)


async def test_an_ended_call_is_not_asked_for_its_peer(caplog: pytest.LogCaptureFixture) -> None:
    """gRPC's context follows a null pointer then: a reader who left in the wrong moment ended the server."""

    class Ended:
        def peer(self) -> str:
            pytest.fail("the call has ended, and the process would with it")

    context: Any = Ended()
    reply = Reply(Replies(MIB, 0.01), None, "Method", context, edge_replies.Connection("ipv4:127.0.0.1:1"))
    reply.last(LARGE + 1)
    await asyncio.sleep(0.3)
    assert "ipv4:127.0.0.1:1 reads nothing of Method" in caplog.text


HOSTILE = 6
"""Tenants with valid keys who fill what they can."""


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[App, list[str]]]:
    """A server with four places, and the keys of an ordinary tenant and of hostile ones."""
    path = tmp_path_factory.mktemp("crowd") / "keys.json"
    issued = [issue(f"tenant-{number}") for number in range(1 + HOSTILE)]
    path.write_text(KeyFile(keys=tuple(kept for _, kept in issued)).model_dump_json())
    rooms = {"max_request_bytes": 2 * MIB, "upload_megabytes": 16, "reply_megabytes": 64, "max_calls": 64}
    with serving(api_keys=path, upload_seconds=30, reader_seconds=30, threads=1, lanes=1, **rooms) as app:
        yield app, [f"Bearer {key}" for key, _ in issued]


def quick_calls(app: App, bearer: str, seconds: float) -> None:
    """Calls of a picture, each of which ends within the time."""
    image = image_pb2.Image(tensor=wire.to_tensor(np.zeros((96, 96, 3), np.uint8)))
    data = inspection_pb2.ClassifyRequest(images=[image]).SerializeToString()
    with grpc.insecure_channel(app.address) as channel:
        call = channel.unary_unary(CLASSIFY)
        for _ in range(8):
            assert call(data, metadata=[("authorization", bearer)], timeout=seconds)


def test_beside_many_hostile_keys_that_stall_a_further_call_is_taken_at_once(
    crowded: tuple[App, list[str]],
) -> None:
    """They hold all places, and calls besides, for 30 s if one lets them."""
    app, (ordinary, *hostile) = crowded
    with ExitStack() as stack:
        for bearer in hostile:
            connection = stack.enter_context(Connection(app.address))
            for _ in range(12):
                stream = connection.begin(CLASSIFY, authorization=bearer)
                connection.send(stream, message_head(MIB) + bytes(1000))
            connection.pump(0.01)
        time.sleep(1.2)  # What all have had is little before.
        quick_calls(app, ordinary, 2)


def test_beside_many_hostile_keys_that_do_not_read_a_further_reply_has_room(
    crowded: tuple[App, list[str]],
) -> None:
    """Each of 18 wants 5.6 of 64 MiB; of the last eight others have part."""
    app, (ordinary, *hostile) = crowded
    data = activations()
    with ExitStack() as stack:
        connections = [stack.enter_context(Connection(app.address)) for _ in hostile * 3]
        for connection, bearer in zip(connections, hostile * 3, strict=True):
            stream = connection.begin(ACTIVATIONS, authorization=bearer)
            connection.send(stream, message_head(len(data)) + data, end=True)
        assert until(lambda: sum(map(ended, connections)) >= 8)
        with grpc.insecure_channel(app.address) as channel:
            call = channel.unary_stream(ACTIVATIONS)
            metadata = [("authorization", ordinary)]
            assert sum(map(len, call(activations(4), metadata=metadata, timeout=10))) > 2 * MIB


@pytest.fixture(scope="module")
def open_to_all() -> Iterator[App]:
    """A server with little room for replies, and little patience."""
    with serving(reply_megabytes=16, reader_seconds=0.3, threads=1, lanes=1) as app:
        yield app


def test_a_reader_who_stops_is_told_why_and_loses_the_connection_in_the_end(
    open_to_all: App, caplog: pytest.LogCaptureFixture
) -> None:
    """A window of the size of its first message, and no word after it."""
    data = activations()
    with caplog.at_level(logging.DEBUG), Connection(open_to_all.address) as connection:
        stream = connection.begin(ACTIVATIONS)
        connection.send(stream, message_head(len(data)) + data, end=True)
        assert until(lambda: ended(connection))
        assert connection.closed
        assert connection.received <= 1 << 16
        assert until(lambda: "the caller has left: " in caplog.text)
    assert "reads nothing of " + ACTIVATIONS in caplog.text
    assert not [record for record in caplog.records if record.exc_info]


def test_a_reader_who_goes_on_late_gets_the_error(open_to_all: App) -> None:
    """With the window that it begins with: gRPC's probing may enlarge it until it takes the whole reply."""
    fixed = [("grpc.http2.bdp_probe", 0)]
    with grpc.insecure_channel(open_to_all.address, options=fixed) as channel:
        call = channel.unary_stream(ACTIVATIONS)(activations())
        next(call)
        time.sleep(1.8)
        with pytest.raises(grpc.RpcError) as raised:
            list(call)
    error = from_rpc_error(raised.value)
    assert isinstance(error, ResourceExhausted)
    assert (error.reason, error.retry_after) == ("SLOW_READER", None)


def test_unread_replies_are_refused_beyond_their_room_and_readers_are_served(open_to_all: App) -> None:
    """Each holds 5.6 MiB: of ten who do not read, two have room beside the one who does."""
    data, connections = activations(), []
    with grpc.insecure_channel(open_to_all.address) as channel, ExitStack() as stack:
        for _ in range(10):
            connections.append(stack.enter_context(Connection(open_to_all.address)))
            stream = connections[-1].begin(ACTIVATIONS)
            connections[-1].send(stream, message_head(len(data)) + data, end=True)
        assert until(lambda: sum(map(ended, connections)) >= 8)
        assert until(lambda: all(map(ended, connections)))
        assert sum(map(len, channel.unary_stream(ACTIVATIONS)(data))) > 5 * MIB


def test_connections_and_streams_are_counted_and_idle_ones_end() -> None:
    limits = {"max_connections": 3, "connection_streams": 2, "connection_idle": 1.0}
    with serving(**limits) as app, ExitStack() as stack:
        connections = [stack.enter_context(Connection(app.address)) for _ in range(5)]
        for connection in connections:
            connection.pump(0.1)
        assert [connection.closed for connection in connections] == [False] * 3 + [True] * 2
        streams = [connections[0].begin(CLASSIFY) for _ in range(4)]
        connections[0].pump(0.2)
        assert connections[0].ended == set(streams[2:])
        assert until(lambda: ended(connections[1]), 5)


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("ipv4:127.0.0.1:4711", Peer("127.0.0.1", 4711)),
        ("ipv6:%5B::1%5D:4711", Peer("::1", 4711)),
        ("ipv6:%5B::ffff:10.0.0.7%5D:4711", Peer("10.0.0.7", 4711)),
        ("unix:/tmp/socket", Peer("/tmp/socket", 0)),
    ],
)
def test_peers(name: str, peer: Peer) -> None:
    assert Peer.of(name) == peer
