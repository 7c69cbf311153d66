"""What was computed once is not computed again, is nobody else's, and takes no more room than it may."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import redis
from google.protobuf.message import Message
from support.redis_server import RedisServer
from support.repository import add_copy
from support.server_thread import serving
from support.worker_process import eventually

from convlens import wire
from convlens.inference import open_inference_pb2 as oip
from convlens.inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from convlens.v1 import (
    attack_pb2,
    attack_pb2_grpc,
    attribution_pb2,
    attribution_pb2_grpc,
    image_pb2,
    inspection_pb2,
    inspection_pb2_grpc,
    model_pb2,
    target_pb2,
)
from convlens_client import Client
from convlens_server.app import App
from convlens_server.cache.reply_cache import OVERHEAD, PREFIX, ReplyCache, pack, unpack
from convlens_server.identity.keys import KeyFile, issue
from convlens_server.services import CACHEABLE
from convlens_server.settings import ServerSettings

MODEL = model_pb2.ModelRef(name="copy")


@pytest.fixture(autouse=True)
def written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every entry is there as soon as its call has ended."""
    put = ReplyCache.put

    def put_at_once(self: ReplyCache, *args: Any) -> None:
        put(self, *args)
        self.flush()

    monkeypatch.setattr(ReplyCache, "put", put_at_once)


@pytest.fixture
def kept(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


@contextmanager
def remembering(redis_server: RedisServer, folder: Path, **settings: Any) -> Iterator[App]:
    where = {"cache_redis": redis_server.url, "models": folder, "threads": 1}
    with serving(**{**where, "cache_seconds": 60, **settings}) as app:
        yield app


def cache_settings(url: str, seconds: float, room: int = 1 << 20) -> ServerSettings:
    # Not validated, so that the room may be a fraction of a MiB.
    return ServerSettings.model_construct(redis=url, cache_seconds=seconds, cache_megabytes=room / 2**20)


def picture(seed: int = 0) -> image_pb2.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (96, 96, 3), np.uint8)
    return image_pb2.Image(encoded=wire.encode_image(pixels))


def entries(kept: redis.Redis) -> int:
    return len(list(kept.scan_iter(f"{PREFIX}:*")))


def asked(channel: grpc.Channel, request: Message, **metadata: str) -> list[bytes]:
    """The replies to a request, as they are on the wire."""
    given = list(metadata.items())
    match request:
        case inspection_pb2.ClassifyRequest():
            stub = inspection_pb2_grpc.InspectionServiceStub(channel)
            return [stub.Classify(request, metadata=given).SerializeToString()]
        case inspection_pb2.GetActivationsRequest():
            replies = inspection_pb2_grpc.InspectionServiceStub(channel).GetActivations(
                request, metadata=given
            )
        case attribution_pb2.AttributeRequest():
            replies = attribution_pb2_grpc.AttributionServiceStub(channel).Attribute(request, metadata=given)
        case _:
            replies = attack_pb2_grpc.AttackServiceStub(channel).Attack(request, metadata=given)
    return [reply.SerializeToString() for reply in replies]


def rise(seed: int | None = None) -> attribution_pb2.AttributeRequest:
    technique = attribution_pb2.Rise(masks=4, seed=seed)
    target = target_pb2.Target(class_score=target_pb2.ClassTarget(index=1))
    wanted = attribution_pb2.Attribution(target=target, rise=technique)
    return attribution_pb2.AttributeRequest(model=MODEL, images=[picture()], attributions=[wanted])


CASES = [
    inspection_pb2.ClassifyRequest(model=MODEL, images=[picture()], top_k=3),
    inspection_pb2.GetActivationsRequest(model=MODEL, images=[picture()], layers=["features.conv1"]),
    rise(),
    attack_pb2.AttackRequest(model=MODEL, images=[picture()], pgd=attack_pb2.Pgd(steps=2)),
]


@pytest.mark.parametrize("request_", CASES, ids=lambda case: type(case).__name__)
def test_a_hit_is_the_miss_byte_for_byte(
    request_: Message, redis_server: RedisServer, kept: redis.Redis, tmp_path: Path
) -> None:
    assert request_.DESCRIPTOR in CACHEABLE
    add_copy(tmp_path, "copy")
    with remembering(redis_server, tmp_path) as app, grpc.insecure_channel(app.address) as channel:
        first = asked(channel, request_)
        assert entries(kept) == 1
        app.models.unload(MODEL)
        assert asked(channel, request_) == first
        assert app.models.loaded() == []  # Nothing was computed.
    with serving(models=tmp_path, threads=1) as app, grpc.insecure_channel(app.address) as channel:
        assert asked(channel, request_) == first


def test_another_question_is_another_entry(
    redis_server: RedisServer, kept: redis.Redis, tmp_path: Path
) -> None:
    add_copy(tmp_path, "copy")
    with remembering(redis_server, tmp_path) as app, grpc.insecure_channel(app.address) as channel:
        asked(channel, rise())
        asked(channel, rise(seed=0))  # The default.
        assert entries(kept) == 1
        other = asked(channel, rise(seed=1))
        assert entries(kept) == 2
        assert asked(channel, rise(seed=0)) != other
        add_copy(tmp_path, "copy", 2, dream_layers=("features.conv1",))  # The newest version now.
        asked(channel, rise())
        assert entries(kept) == 3
        asked(channel, inspection_pb2.ClassifyRequest(model=MODEL, images=[picture(1)]))
        asked(channel, inspection_pb2.ClassifyRequest(model=MODEL, images=[picture(2)]))
        assert entries(kept) == 5
        assert 30_000 < min(kept.pttl(key) for key in kept.scan_iter(f"{PREFIX}*")) <= 60_000


def inference(pixel: float = 0.5, **fields: str) -> oip.ModelInferRequest:
    """Of the Open Inference Protocol."""
    pixels = np.full((1, 3, 96, 96), pixel, np.float32)
    tensor = {"name": "image", "datatype": "FP32", "shape": pixels.shape}
    given = {"model_name": "copy", **fields}
    return oip.ModelInferRequest(inputs=[tensor], raw_input_contents=[pixels.tobytes()], **given)


def test_replies_to_clients_of_triton_are_remembered_too(
    redis_server: RedisServer, kept: redis.Redis, tmp_path: Path
) -> None:
    for version in (1, 2):
        add_copy(tmp_path, "copy", version)
    with remembering(redis_server, tmp_path) as app, grpc.insecure_channel(app.address) as channel:
        infer = GRPCInferenceServiceStub(channel).ModelInfer
        first = infer(inference(id="a"))
        app.models.unload(MODEL)
        again = infer(inference(id="b", model_version="2"))
        assert app.models.loaded() == []
        assert (first.id, again.id) == ("a", "b")
        again.id = first.id
        assert again == first
        assert entries(kept) == 1
        assert infer(inference(pixel=0.25)).raw_output_contents != first.raw_output_contents
        assert infer(inference(model_version="1")).model_version == "1"
        assert entries(kept) == 3
        with pytest.raises(grpc.RpcError):
            infer(inference(model_version="one"))
        assert entries(kept) == 3


def test_what_is_somebodys_is_nobody_elses(
    redis_server: RedisServer, kept: redis.Redis, tmp_path: Path
) -> None:
    add_copy(tmp_path, "copy")
    keys = {tenant: issue(tenant) for tenant in ("red", "blue")}
    file = tmp_path / "keys.json"
    file.write_text(KeyFile(keys=tuple(key for _, key in keys.values())).model_dump_json())
    with (
        remembering(redis_server, tmp_path, api_keys=file) as app,
        grpc.insecure_channel(app.address) as channel,
    ):
        for tenant, count in (("red", 1), ("red", 1), ("blue", 2)):
            asked(channel, CASES[0], authorization=f"Bearer {keys[tenant][0]}")
            assert entries(kept) == count


def test_large_replies_and_refused_requests_are_not_kept(
    redis_server: RedisServer, kept: redis.Redis, tmp_path: Path
) -> None:
    add_copy(tmp_path, "copy")
    with (
        remembering(redis_server, tmp_path, cache_entry_kilobytes=1) as app,
        grpc.insecure_channel(app.address) as channel,
    ):
        assert asked(channel, CASES[1]) == asked(channel, CASES[1])
        with pytest.raises(grpc.RpcError):
            asked(channel, inspection_pb2.ClassifyRequest(model=MODEL, images=[picture()], top_k=-1))
        assert entries(kept) == 0
        asked(channel, CASES[0])
        assert entries(kept) == 1


def test_a_version_that_came_meanwhile_is_not_kept_as_the_one_before(
    redis_server: RedisServer, kept: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_copy(tmp_path, "copy")
    with remembering(redis_server, tmp_path) as app, grpc.insecure_channel(app.address) as channel:
        load = app.models.get

        def late(ref: model_pb2.ModelRef) -> Any:
            if not (tmp_path / "copy" / "2").exists():
                add_copy(tmp_path, "copy", 2, dream_layers=("features.conv1",))
            return load(ref)

        monkeypatch.setattr(app.models, "get", late)
        asked(channel, CASES[0])
        assert entries(kept) == 0
        asked(channel, CASES[0])
        assert entries(kept) == 1


def test_the_total_is_bounded_and_the_oldest_go_first(redis_server: RedisServer, kept: redis.Redis) -> None:
    body, names = b"x" * 10_000, [f"{n:064x}" for n in range(50)]
    room = 10 * (len(body) + OVERHEAD)
    replies = ReplyCache(cache_settings(redis_server.url, 60, room))
    for name in names:
        replies.put(name, body)
        replies.put(name, body)  # Twice by two servers at once: once in the sum.
        assert entries(kept) <= 10
        assert int(kept.get(f"{PREFIX}-bytes")) <= room
    assert [replies.get(name) is not None for name in names] == [False] * 40 + [True] * 10
    replies.put("f" * 64, b"y" * room)  # Never fits; it is not to be mended by dropping all.
    assert replies.get("f" * 64) is None
    replies.close()


def test_entries_go_by_themselves(redis_server: RedisServer, kept: redis.Redis) -> None:
    replies = ReplyCache(cache_settings(redis_server.url, 1.0))
    replies.put("a" * 64, b"body")
    assert replies.get("a" * 64) == b"body"
    eventually(lambda: replies.get("a" * 64) is None)
    assert not kept.keys(f"{PREFIX}*")
    replies.close()


def test_a_redis_that_is_away_or_slow_costs_next_to_nothing(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    add_copy(tmp_path, "copy")
    image = np.zeros((96, 96, 3), np.uint8)
    with remembering(redis_server, tmp_path) as app, Client(app.address) as client:
        expected = client.classify(image, model="copy")
        for stop, start in (
            (redis_server.pause, redis_server.resume),
            (redis_server.kill, redis_server.start),
        ):
            stop()
            try:
                began = time.monotonic()
                for _ in range(10):
                    assert client.classify(image, model="copy") == expected
                assert time.monotonic() - began < 2.0
            finally:
                start()


def test_hits_misses_and_errors_are_counted(redis_server: RedisServer, tmp_path: Path) -> None:
    add_copy(tmp_path, "copy")
    refused = inspection_pb2.ClassifyRequest(model=MODEL, images=[picture()], top_k=-1)
    with remembering(redis_server, tmp_path) as app, grpc.insecure_channel(app.address) as channel:

        def counts(*expected: float) -> bool:
            """Whether they are that soon: a call is counted a moment after its reply."""
            name, sample = "convlens_cache_requests_total", app._metrics.registry.get_sample_value
            until = time.monotonic() + 5
            while time.monotonic() < until:
                if [sample(name, {"result": result}) for result in ("hit", "miss", "error")] == [*expected]:
                    return True
                time.sleep(0.01)
            return False

        assert counts(0, 0, 0)
        for request in (CASES[0], rise(), rise()):
            asked(channel, request)
        with pytest.raises(grpc.RpcError):
            asked(channel, refused)
        assert counts(1, 2, 0)
        redis_server.kill()
        try:
            asked(channel, CASES[0])
            asked(channel, CASES[0])  # Not even asked.
        finally:
            redis_server.start()
        assert counts(1, 2, 2)


def test_what_somebody_wrote_there_is_no_reply(
    redis_server: RedisServer, kept: redis.Redis, tmp_path: Path
) -> None:
    add_copy(tmp_path, "copy")
    with remembering(redis_server, tmp_path) as app, grpc.insecure_channel(app.address) as channel:
        first = asked(channel, CASES[0])
        (entry,) = kept.scan_iter(f"{PREFIX}:*")
        for nonsense in (b"nonsense", b"\xff\xff\xff\xff", b"\x02\x00\x00\x00\xff\xff"):
            kept.set(entry, nonsense)
            assert asked(channel, CASES[0]) == first


def test_bodies_hold_messages_one_by_one() -> None:
    parts = [b"", b"a", b"bc" * 1000]
    assert list(unpack(pack(parts))) == parts


def test_a_cache_needs_a_redis() -> None:
    with (
        pytest.raises(ValueError, match="CONVLENS_CACHE_SECONDS needs CONVLENS_REDIS"),
        serving(cache_seconds=1),
    ):
        pass
