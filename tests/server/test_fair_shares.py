"""Short calls beside long ones, calls that cost too much, and calls that cannot end in time, from outside."""

from __future__ import annotations

import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import grpc
import numpy as np
import pytest
from benchmarks.overload_server import replay
from support.replies import error_of, tensors_of
from support.server_thread import serving

from convlens import errors, wire
from convlens.v1 import (
    attack_pb2,
    attribution_pb2,
    attribution_pb2_grpc,
    image_pb2,
    inspection_pb2,
    inspection_pb2_grpc,
    model_pb2,
)
from convlens_models.graphs.autodiff import ReluRule
from convlens_models.measures.certificate import AttackGoal, certify
from convlens_models.repository import ModelRepository
from convlens_server.app import App
from convlens_server.backends import onnx_backend
from convlens_server.backends.base import F32
from convlens_server.backends.models import LoadedModels
from convlens_server.backends.providers import Compute
from convlens_server.quick import costs
from convlens_server.quick.attribution import attribute
from convlens_server.quick.quality import resolved
from convlens_server.quick.robustness import measure
from convlens_server.request.validation import validate
from convlens_server.settings import ServerSettings
from convlens_server.techniques import ATTACKS, ATTRIBUTIONS

SIDE = 96


@pytest.fixture(scope="module")
def narrow() -> Iterator[App]:
    """A server with one worker thread."""
    with serving(threads=1, lanes=1) as app:
        yield app


@pytest.fixture
def channel(narrow: App) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(narrow.address) as channel:
        yield channel


def picture(side: int = SIDE) -> image_pb2.Image:
    pixels = np.random.default_rng(0).random((3, side, side), np.float32)
    return image_pb2.Image(tensor=wire.to_tensor(pixels))


def asking(count: int = 1, **techniques: Any) -> attribution_pb2.AttributeRequest:
    return attribution_pb2.AttributeRequest(
        images=[picture()], attributions=[attribution_pb2.Attribution(**techniques)] * count
    )


CLASSIFY = inspection_pb2.ClassifyRequest(images=[picture()])


def test_short_calls_end_while_a_long_one_has_the_only_thread(narrow: App, channel: grpc.Channel) -> None:
    long = attribution_pb2_grpc.AttributionServiceStub(channel).Attribute(asking(rise={"masks": 20_000}))
    while not narrow.executor.busy:
        time.sleep(0.01)
    inspection = inspection_pb2_grpc.InspectionServiceStub(channel)
    for _ in range(5):
        assert inspection.Classify(CLASSIFY).classifications
    attribution = attribution_pb2_grpc.AttributionServiceStub(channel)
    assert tensors_of(attribution.Attribute(asking(gradient={})))[1]
    assert narrow.executor.busy == 1
    assert not long.done()  # It has been there all the while.
    long.cancel()


def test_calls_that_were_begun_end_one_after_the_other(channel: grpc.Channel) -> None:
    """What has come of each when it ends is all of it: no last message waits for another call's work."""
    stub, ended = attribution_pb2_grpc.AttributionServiceStub(channel), list[int]()
    begun = Counter[int]()

    def call(number: int) -> None:
        for _ in stub.Attribute(asking(2, smoothgrad={"samples": 8})):
            begun[number] += 1
        ended.append(sum(count > 0 for count in begun.values()))

    threads = [threading.Thread(target=call, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # When the n-th ended, about n had sent anything: not all of them, as when they take turns.
    assert sum(ended) <= sum((1, 2, 3, 4)) + 2
    assert len(set(begun.values())) == 1


def test_a_call_that_costs_too_much_says_what_to_lower(channel: grpc.Channel) -> None:
    stub = attribution_pb2_grpc.AttributionServiceStub(channel)
    error = error_of(stub.Attribute, asking(32, rise={"masks": 20_000}))
    assert isinstance(error, errors.InvalidArgument)
    assert error.field == "attributions[0].rise.masks"
    assert "= 20000: must be lower, or as a job, AttributionMaps: the call takes 9e+13" in error.message
    many = attribution_pb2.AttributeRequest(images=[picture(512)] * 2)
    many.attributions.extend([attribution_pb2.Attribution(guided_grad_cam={})] * 32)
    with serving(max_call_cost=1e11) as app, grpc.insecure_channel(app.address) as other:
        error = error_of(attribution_pb2_grpc.AttributionServiceStub(other).Attribute, many)
    assert isinstance(error, errors.InvalidArgument)
    assert error.message.startswith("images: must be fewer, in several calls: the call takes ")


def tall(count: int) -> inspection_pb2.ClassifyRequest:
    """Pictures of 65,500 x 900 pixels, which their headers claim; what is behind them, nobody reads."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 65_500, 900, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    image = image_pb2.Image(encoded=b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IEND\xae\x42\x60\x82")
    return inspection_pb2.ClassifyRequest(images=[image] * count)


def test_pictures_that_take_long_to_decode_hold_nobody_up(narrow: App, channel: grpc.Channel) -> None:
    """What they cost is known before any of them is decoded."""
    stub = inspection_pb2_grpc.InspectionServiceStub(channel)
    stub.Classify(CLASSIFY)
    attacks = [stub.Classify.future(tall(count), timeout=1) for count in (24, 24, 8, 8)]
    assert stub.Classify(CLASSIFY).classifications
    found = [errors.from_rpc_error(attack.exception()) for attack in attacks]
    for error in found[:2]:
        assert isinstance(error, errors.InvalidArgument)
        assert "1414800000 pixels before resizing" in error.message
    for error in found[2:]:
        assert isinstance(error, errors.ResourceExhausted)
        assert error.reason == "DEADLINE"
        assert error.retry_after is None  # It could not end in a second whenever it came.


def test_decoding_stops_when_the_caller_has_left() -> None:
    pictures = wire.encode_image(np.zeros((3000, 3000, 3), np.uint8))
    pauses = list[bool]()

    def pause(*, holding: bool = False) -> None:
        pauses.append(holding)
        if len(pauses) == 3:
            raise errors.Cancelled("the caller has left")

    token = wire.pausing.set(pause)
    try:
        with pytest.raises(errors.Cancelled):
            wire.decode_image(pictures)
        assert pauses == [False, True, True]  # Before it, and then between bands of its rows.
        pauses.clear()
        with wire._one_large, pytest.raises(errors.Cancelled):
            wire.decode_image(pictures)  # While another large one is decoded.
        assert pauses == [False, False, False]
    finally:
        wire.pausing.reset(token)
    assert wire.decode_image(pictures).shape == (3000, 3000, 3)


@pytest.mark.slow
def test_of_eight_calls_with_six_times_the_time_of_one_most_succeed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes take a fixed time, so that what else the machine does counts little."""
    monkeypatch.setattr(onnx_backend, "_run", replay)
    with serving(threads=2, lanes=2) as app, grpc.insecure_channel(app.address) as channel:
        stub = attribution_pb2_grpc.AttributionServiceStub(channel)
        asked = asking(smoothgrad={"samples": 20})
        for call in [stub.Attribute(asked) for _ in range(3)]:
            list(call)  # Sessions for one thread and for two are built, and the pace is known.
        took = []
        for _ in range(3):
            began = time.monotonic()
            list(stub.Attribute(asked))
            took.append(time.monotonic() - began)
        deadline, outcomes = 6 * max(took), list[tuple[str, float]]()

        def call_once() -> None:
            began, code = time.monotonic(), "OK"
            try:
                list(stub.Attribute(asked, timeout=deadline))
            except grpc.RpcError as error:
                code = error.code().name
            outcomes.append((code, time.monotonic() - began))

        threads = [threading.Thread(target=call_once) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print([(code, round(seconds / max(took), 2)) for code, seconds in outcomes])
    codes = Counter(code for code, _ in outcomes)
    assert codes["OK"] >= 5
    assert codes["RESOURCE_EXHAUSTED"] >= 8 - codes["OK"] - 1  # One may be on the edge.
    assert all(seconds < max(took) / 2 for code, seconds in outcomes if code == "RESOURCE_EXHAUSTED")


class Counting:
    """A backend that counts the images of its passes; one back counts as two there."""

    def __init__(self) -> None:
        models = LoadedModels(ModelRepository(), Compute(lambda: 1), ServerSettings(redis=""))
        self._backend = models.get(model_pb2.ModelRef())
        self.passes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def forward(self, images: F32, layers: Sequence[str]) -> dict[str, F32]:
        self.passes += len(images)
        return self._backend.forward(images, layers)

    def gradient(self, images: F32, layer: str, cotangent: F32, rule: ReluRule) -> tuple[F32, F32]:
        self.passes += 3 * len(images)
        return self._backend.gradient(images, layer, cotangent, rule)

    def inner_gradient(self, images: F32, layer: str, cotangent: F32, wrt: str) -> tuple[F32, F32, F32]:
        self.passes += 3 * len(images)
        return self._backend.inner_gradient(images, layer, cotangent, wrt)


@pytest.fixture(scope="module")
def counting() -> Counting:
    return Counting()


SMALL: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"steps": 3},
    "smoothgrad": {"samples": 4},
    "occlusion": {"window": 40, "stride": 30},
    "rise": {"masks": 5},
    "bim": {"steps": 3},
    "pgd": {"steps": 2, "restarts": 2},
}


@pytest.mark.parametrize(
    ("name", "scored"), [*((name, False) for name in ATTRIBUTIONS), ("gradient", True), ("rise", True)]
)
def test_an_attribution_makes_the_passes_that_it_was_said_to(
    counting: Counting, name: str, scored: bool
) -> None:
    request = asking(1, **{name: SMALL.get(name, {})})
    if scored:
        request.quality.steps = 3
    manifest = counting.stored.manifest
    request = validate(request, manifest)
    images = np.random.default_rng(1).random((1, 3, 64, 64), np.float32)
    counting.passes = 0
    scoring = resolved(request.quality) if scored else None
    list(attribute(counting, images, request.attributions, scoring))  # type: ignore[arg-type]
    assert counting.passes == sum(costs.attribute(request, manifest, (64, 64)).values())


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_makes_the_passes_that_it_was_said_to(counting: Counting, name: str) -> None:
    manifest, images = counting.stored.manifest, np.full((1, 3, 64, 64), 0.5, np.float32)
    request = validate(attack_pb2.AttackRequest(images=[picture()], **{name: SMALL.get(name, {})}), manifest)
    counting.passes = 0
    forward = partial(counting.forward, layers=["probabilities"])
    before = forward(images)["probabilities"]
    goal = AttackGoal(False, before.argmax(axis=1))
    attacked = ATTACKS[name].compute(counting, images, goal, getattr(request, name))  # type: ignore[arg-type]
    certify(
        lambda batch: forward(batch)["probabilities"],
        manifest.labels,
        images,
        attacked.adversarial,
        goal,
        before=before,
        queries=attacked.queries,
    )
    assert counting.passes == sum(costs.attack(request, manifest, (64, 64)).values())


@pytest.mark.parametrize("epsilons", [[], [0.0, 0.1]])
def test_a_measurement_makes_the_passes_that_it_was_said_to(
    counting: Counting, epsilons: list[float]
) -> None:
    manifest, images = counting.stored.manifest, np.full((1, 3, 64, 64), 0.5, np.float32)
    asked = attack_pb2.MeasureRobustnessRequest(
        images=[picture()], labels=[0], epsilons=epsilons, bim={"steps": 2}
    )
    request = validate(asked, manifest)
    counting.passes = 0
    list(measure(counting, images, request))  # type: ignore[arg-type]
    assert counting.passes == sum(costs.robustness(request, manifest, (64, 64)).values())
