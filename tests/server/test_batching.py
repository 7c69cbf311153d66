"""Concurrent calls of one graph as one pass: the same numbers, and nobody suffers for another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.repository import add_copy
from support.server_thread import serving

from convlens.errors import Cancelled, ResourceExhausted
from convlens.v1 import model_pb2
from convlens_client import Client
from convlens_models.graphs.autodiff import ReluRule
from convlens_models.manifest import PROBABILITIES, Batching, Manifest
from convlens_models.repository import MANIFEST, ModelRepository
from convlens_server.backends.base import F32, Backend
from convlens_server.backends.batching import Batcher
from convlens_server.backends.models import LoadedModels
from convlens_server.backends.providers import Compute
from convlens_server.request import cancellation
from convlens_server.serving.executor import THREADS_ON_GPU, worker_threads
from convlens_server.settings import ServerSettings

REF = model_pb2.ModelRef(name="patterns")


@pytest.fixture(scope="module")
def backend() -> Backend:
    return LoadedModels(ModelRepository(), Compute(lambda: 1), ServerSettings(max_models=2)).get(REF)


class Watched:
    """An backend that notes its passes, and holds them until it is told to go on."""

    def __init__(self, backend: Backend, *, held: bool = False) -> None:
        self._engine = backend
        self.passes: list[int] = []
        self.left: list[bool] = []
        self.go = threading.Event()
        self.error: Exception | None = None
        if not held:
            self.go.set()

    @property
    def stored(self) -> Any:
        return self._engine.stored

    def forward(self, images: F32, layers: Sequence[str]) -> dict[str, F32]:
        return self._passing(images, lambda: self._engine.forward(images, layers))

    def gradient(self, images: F32, layer: str, cotangent: F32, rule: ReluRule) -> tuple[F32, F32]:
        return self._passing(images, lambda: self._engine.gradient(images, layer, cotangent, rule))

    def inner_gradient(self, images: F32, layer: str, cotangent: F32, wrt: str) -> tuple[F32, F32, F32]:
        return self._passing(images, lambda: self._engine.inner_gradient(images, layer, cotangent, wrt))

    def with_weights(self, folder: Path) -> Backend:
        return self._engine.with_weights(folder)

    def close(self) -> None:
        self._engine.close()

    def _passing(self, images: F32, run: Callable[[], Any]) -> Any:
        self.passes.append(len(images))
        interrupted = threading.Event()
        with cancellation.interruptible(interrupted.set):
            assert self.go.wait(20)
        self.left.append(interrupted.is_set())
        if self.error is not None:
            raise self.error
        return run()


def images(count: int, seed: int = 0, side: int = 96) -> F32:
    return np.random.default_rng(seed).random((count, 3, side, side), np.float32)


def together(work: Sequence[Callable[[], Any]]) -> list[Any]:
    """What they come to, each in a thread of its own."""
    with ThreadPoolExecutor(len(work)) as pool:
        return [future.result(60) for future in [pool.submit(one) for one in work]]


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


def same(found: F32, expected: F32) -> bool:
    return bool(np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected))


def test_values_are_those_of_each_alone(backend: Backend) -> None:
    watched = Watched(backend)
    batcher = Batcher(watched, Batching(max_batch=7, max_delay_ms=1000))
    given = [images(1 + seed % 2, seed) for seed in range(5)]  # 1, 2, 1, 2, 1: seven images.
    layers = ["classifier", "features.relu3_2", "classifier"]
    found = together([lambda each=each: batcher.forward(each, layers) for each in given])
    assert watched.passes == [7]
    for each, values in zip(given, found, strict=True):
        alone = backend.forward(each, layers)
        assert list(values) == list(alone)
        assert all(same(values[layer], alone[layer]) for layer in layers)
        assert all(values[layer].base is None for layer in layers)


@pytest.mark.parametrize("rule", list(ReluRule))
def test_gradients_are_those_of_each_alone(backend: Backend, rule: ReluRule) -> None:
    watched = Watched(backend)
    batcher = Batcher(watched, Batching(max_batch=4, max_delay_ms=1000))
    given = [(images(1, seed), np.eye(53, dtype=np.float32)[[seed]]) for seed in range(4)]
    found = together([lambda x=x, c=c: batcher.gradient(x, "classifier", c, rule) for x, c in given])
    assert watched.passes == [4]
    for (x, cotangent), values in zip(given, found, strict=True):
        expected = backend.gradient(x, "classifier", cotangent, rule)
        assert all(same(a, b) for a, b in zip(values, expected, strict=True))


def test_inner_gradients_too(backend: Backend) -> None:
    watched = Watched(backend)
    batcher = Batcher(watched, Batching(max_batch=2, max_delay_ms=1000))
    given = [(images(1, seed), np.eye(53, dtype=np.float32)[[seed]]) for seed in range(2)]
    ask = [lambda x=x, c=c: batcher.inner_gradient(x, "classifier", c, "features.pool4") for x, c in given]
    found = together(ask)
    assert watched.passes == [2]  # Full: nobody waits for the delay to pass.
    for (x, cotangent), values in zip(given, found, strict=True):
        expected = backend.inner_gradient(x, "classifier", cotangent, "features.pool4")
        assert all(same(a, b) for a, b in zip(values, expected, strict=True))


def test_other_graphs_and_sizes_are_other_passes(backend: Backend) -> None:
    watched = Watched(backend)
    batcher = Batcher(watched, Batching(max_batch=4, max_delay_ms=50))
    found = together(
        [
            lambda: batcher.forward(images(1), ["classifier"]),
            lambda: batcher.forward(images(1), [PROBABILITIES]),
            lambda: batcher.forward(images(1, side=80), ["classifier"]),
            lambda: batcher.forward(images(4), ["classifier"]),  # As many as a pass takes: alone.
        ]
    )
    assert sorted(watched.passes) == [1, 1, 1, 4]
    assert [len(next(iter(values.values()))) for values in found] == [1, 1, 1, 4]


def test_no_pass_is_larger_than_it_may_be(backend: Backend) -> None:
    watched = Watched(backend)
    batcher = Batcher(watched, Batching(max_batch=5, max_delay_ms=20))
    work = [lambda seed=seed: batcher.forward(images(2, seed), ["classifier"]) for seed in range(12)]
    found = together(work)
    assert max(watched.passes) <= 5
    assert sum(watched.passes) == 24
    for seed, values in enumerate(found):
        assert same(values["classifier"], backend.forward(images(2, seed), ["classifier"])["classifier"])


def test_while_a_pass_runs_the_next_one_fills(backend: Backend) -> None:
    watched = Watched(backend, held=True)
    batcher = Batcher(watched, Batching(max_batch=8, max_delay_ms=0))
    with ThreadPoolExecutor(7) as pool:
        first = pool.submit(batcher.forward, images(1), ["classifier"])
        until(lambda: watched.passes == [1])
        others = [pool.submit(batcher.forward, images(1, seed), ["classifier"]) for seed in range(6)]
        until(lambda: batcher._waiting == 6)
        watched.go.set()
        assert all(future.result(20) for future in (first, *others))
    assert watched.passes == [1, 6]


def calling(pool: ThreadPoolExecutor, caller: cancellation.Caller, work: Callable[[], Any]) -> Future[Any]:
    """`work` for a caller who may leave."""

    def run() -> Any:
        token = cancellation.current.set(caller)
        try:
            return work()
        finally:
            cancellation.current.reset(token)

    return pool.submit(run)


@pytest.mark.parametrize("leaver", [0, 1, 2], ids=["the leader", "a follower", "the last"])
def test_who_leaves_the_queue_is_not_computed(backend: Backend, leaver: int) -> None:
    watched = Watched(backend, held=True)
    batcher = Batcher(watched, Batching(max_batch=8, max_delay_ms=0))
    callers = [cancellation.Caller() for _ in range(3)]
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(batcher.forward, images(1), ["classifier"])
        until(lambda: watched.passes == [1])
        waiting = []
        for seed, caller in enumerate(callers):
            work = lambda seed=seed: batcher.forward(images(1, seed), ["classifier"])  # noqa: E731
            waiting.append(calling(pool, caller, work))
            until(lambda: batcher._waiting == len(waiting))
        callers[leaver].leave()
        until(lambda: batcher._waiting == 2)
        watched.go.set()
        first.result(20)
        with pytest.raises(Cancelled):
            waiting[leaver].result(20)
        for seed, future in enumerate(waiting):
            if seed != leaver:
                expected = backend.forward(images(1, seed), ["classifier"])["classifier"]
                assert same(future.result(20)["classifier"], expected)
    assert watched.passes == [1, 2]


def test_a_group_that_all_have_left_is_not_computed_and_a_pass_is_stopped(backend: Backend) -> None:
    watched = Watched(backend, held=True)
    batcher = Batcher(watched, Batching(max_batch=2, max_delay_ms=1000))
    callers = [cancellation.Caller() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        work = lambda: batcher.forward(images(1), ["classifier"])  # noqa: E731
        running = [calling(pool, caller, work) for caller in callers[:2]]
        until(lambda: watched.passes == [2])
        queued = [calling(pool, caller, work) for caller in callers[2:]]
        until(lambda: batcher._waiting == 2)
        for caller in (callers[0], *callers[2:]):
            caller.leave()
        assert batcher._waiting == 0
        watched.go.set()
        for future in (running[0], *queued):
            with pytest.raises(Cancelled):
                future.result(20)
        assert running[1].result(20)
        assert (watched.passes, watched.left) == ([2], [False])  # One of the two was still waiting.
        watched.go.clear()
        one, two = cancellation.Caller(), cancellation.Caller()
        running = [calling(pool, caller, work) for caller in (one, two)]
        until(lambda: watched.passes == [2, 2])
        one.leave()
        two.leave()
        watched.go.set()
        for future in running:
            with pytest.raises(Cancelled):
                future.result(20)
    assert watched.left == [False, True]


def test_an_error_is_that_of_its_pass_alone(backend: Backend) -> None:
    watched = Watched(backend, held=True)
    batcher = Batcher(watched, Batching(max_batch=2, max_delay_ms=1000))
    with ThreadPoolExecutor(4) as pool:
        broken = [pool.submit(batcher.forward, images(1), ["classifier"]) for _ in range(2)]
        until(lambda: watched.passes == [2])
        watched.error = MemoryError("no room on the device")
        watched.go.set()
        for future in broken:
            with pytest.raises(MemoryError):
                future.result(20)
        watched.error = None
        fine = [pool.submit(batcher.forward, images(1), ["classifier"]) for _ in range(2)]
        assert all(future.result(20) for future in fine)
    assert watched.passes == [2, 2]


@pytest.mark.parametrize("policy", ["block", "reject"])
def test_a_full_queue(backend: Backend, policy: Any) -> None:
    watched = Watched(backend, held=True)
    batcher = Batcher(watched, Batching(max_batch=8, max_delay_ms=0, queue=policy, max_queue=2))
    work = lambda: batcher.forward(images(1), ["classifier"])  # noqa: E731
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(work)
        until(lambda: watched.passes == [1])
        waiting = [pool.submit(work) for _ in range(2)]
        until(lambda: batcher._waiting == 2)
        if policy == "reject":
            with pytest.raises(ResourceExhausted, match="2 calls wait") as refused:
                work()
            assert refused.value.retry_after
        else:
            caller = cancellation.Caller()
            gone = calling(pool, caller, work)
            waiting.append(pool.submit(work))
            time.sleep(0.05)
            assert batcher._waiting == 2
            caller.leave()
            with pytest.raises(Cancelled):
                gone.result(20)
        watched.go.set()
        assert all(future.result(20) for future in (first, *waiting))


def test_the_manifest_says_how_and_the_digest_stays(tmp_path: Path) -> None:
    plain = add_copy(tmp_path, "copy")
    batched = add_copy(tmp_path, "batched", batching=Batching(max_batch=4))
    assert plain.digest == batched.digest == ModelRepository().get().manifest.digest
    text = (tmp_path / "batched" / "1" / MANIFEST).read_text()
    assert Manifest.model_validate_json(text).batching == Batching(max_batch=4)
    for compute, name, kind in (
        (Compute(lambda: 1), "batched", "OnnxBackend"),
        (Compute(lambda: 1, batching=True), "copy", "OnnxBackend"),
        (Compute(lambda: 1, batching=True), "batched", "Batcher"),
    ):
        models = LoadedModels(ModelRepository(tmp_path), compute, ServerSettings(max_models=2))
        assert type(models.get(model_pb2.ModelRef(name=name))).__name__ == kind


def test_a_server_that_batches_gives_the_same_answers(tmp_path: Path) -> None:
    add_copy(tmp_path, "copy")
    add_copy(tmp_path, "batched", batching=Batching(max_batch=8, max_delay_ms=20))
    pictures = [np.random.default_rng(seed).integers(0, 256, (96, 96, 3), np.uint8) for seed in range(8)]
    with serving(models=tmp_path, threads=1, lanes=8, batching="on") as app, Client(app.address) as client:
        for _ in range(2):
            asked = [lambda p=p: client.attribute(p, "gradient", model="batched") for p in pictures]
            found = together(asked)
            for each, picture in zip(found, pictures, strict=True):
                expected = client.attribute(picture, "gradient", model="copy")
                assert each.class_indices == expected.class_indices
                assert same(each.map, expected.map)
        loaded = {model.name: model.sessions for model in client.loaded_models()}
        assert set(loaded) == {"batched", "copy"}
        assert min(loaded.values()) > 0
        client.unload_model("batched")
        assert "batched" not in {model.name for model in client.loaded_models()}


def test_with_a_gpu_there_are_threads_for_a_batch_and_the_next() -> None:
    assert worker_threads(ServerSettings(redis=""), on_gpu=True) >= THREADS_ON_GPU
    assert worker_threads(ServerSettings(redis="", lanes=3), on_gpu=True) == 3
    assert worker_threads(ServerSettings(redis="", lanes=3), on_gpu=False) == 3
    assert 2 * Batching().max_batch == THREADS_ON_GPU
