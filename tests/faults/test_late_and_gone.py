"""Redis that is there and says nothing, or too late; a slow disk; data removed under a running system."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support.faults import bad_disk, still_works
from support.front_end import FrontEnd
from support.job_plane import dream, opened, running, sha256, undisturbed, until
from support.jobs import FAILED, SUCCEEDED
from support.redis_server import RedisServer
from support.silent_proxy import SilentProxy
from support.worker_process import Spawn, WorkerProcess, eventually

from convlens.errors import NotFound, Unavailable
from convlens_client import Client, requests
from convlens_client.calls import Rpc
from convlens_workers.jobs import JobStore
from convlens_workers.settings import WorkerSettings

PLACES = ("redis", "artifacts", "models", "queue")


@pytest.fixture(scope="module")
def proxy(shared_redis: RedisServer) -> Iterator[SilentProxy]:
    with SilentProxy(f"127.0.0.1:{shared_redis.port}") as proxy:
        yield proxy


@pytest.fixture(scope="module")
def shared_settings(shared_settings: WorkerSettings, proxy: SilentProxy) -> WorkerSettings:
    """Servers and workers reach Redis through the proxy."""
    return shared_settings.model_copy(update={"redis": f"redis://{proxy.address}/0"})


@pytest.fixture(scope="module")
def front_end(shared_settings: WorkerSettings) -> Iterator[FrontEnd]:
    with FrontEnd(**{name: getattr(shared_settings, name) for name in PLACES}) as front_end:
        yield front_end


@pytest.fixture
def client(front_end: FrontEnd) -> Iterator[Client]:
    with Client(front_end.address) as client:
        yield client


@pytest.fixture
async def seen(shared_settings: WorkerSettings, shared_redis: RedisServer) -> AsyncIterator[JobStore]:
    """The jobs, seen from beside the proxy."""
    async with opened(shared_settings.model_copy(update={"redis": shared_redis.url})) as store:
        yield store


def impatient(call: Rpc) -> Rpc:
    """A call that gives up at the first refusal."""
    call.__class__ = type("Impatient", (type(call),), {"patience": 0.0})
    return call


class Trouble(NamedTuple):
    """What the network does, and whether it is too much: calls that need Redis are refused."""

    drops: tuple[bool, bool] = (False, False)
    delay: float = 0.0
    refused: bool = True


TROUBLES = {
    "black hole": Trouble((True, True)),
    "requests vanish": Trouble((True, False)),
    "replies vanish": Trouble((False, True)),
    "2 s late": Trouble(delay=2.0),
    "0.2 s late": Trouble(delay=0.2, refused=False),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "replies vanish" else pytest.mark.slow) for name in TROUBLES],
)
async def test_a_network_in_trouble(
    name: str,
    client: Client,
    seen: JobStore,
    worker: WorkerProcess,
    proxy: SilentProxy,
    tiny_models: Path,
) -> None:
    """Calls are refused in time or succeed, quick ones do not notice, jobs end once with the same bytes."""
    trouble, jobs, id_ = TROUBLES[name], [dream(400, seed=7), dream(20, seed=8)], str(uuid.uuid4())
    first = client.submit(jobs[0].deepdream, model="tiny", seed=7)
    await until(seen, first.name, running)
    proxy.drops, proxy.delay = trouble.drops, trouble.delay
    try:
        began = time.monotonic()
        submission = requests.submit(jobs[1].deepdream, model="tiny", seed=8, request_id=id_)
        if trouble.refused:
            with pytest.raises(Unavailable) as raised:
                client.run(impatient(submission))
            assert raised.value.retry_after
            assert time.monotonic() - began < 12
        else:
            client.run(impatient(submission))
        began = time.monotonic()
        assert client.get_model("tiny").name == "tiny"
        assert time.monotonic() - began < 1
    finally:
        proxy.drops, proxy.delay = (False, False), 0.0
    second = client.submit(jobs[1].deepdream, model="tiny", seed=8, request_id=id_)
    for operation, request in zip((first, second), jobs, strict=True):
        record = await seen.wait(operation.name, 90)
        assert record.metadata.state == SUCCEEDED
        assert sha256(record) == undisturbed(tiny_models, request)
        assert record.metadata.attempt <= 2
    assert worker.process.poll() is None


@pytest.mark.slow
async def test_a_slow_disk(
    settings: WorkerSettings,
    spawn: Spawn,
    store: JobStore,
    tiny_models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each object takes 0.5 s, longer than a checkpoint's interval: jobs and quick calls go on."""
    for name, value in bad_disk(tmp_path / "disk").items():
        monkeypatch.setenv(name, value)
    (tmp_path / "disk").write_text("0.5 ok")
    spawn().ready()
    request, places = dream(600), {name: getattr(settings, name) for name in PLACES}
    with FrontEnd(**places) as server, Client(server.address) as client:
        began = time.monotonic()
        operation = client.submit(request.deepdream, model="tiny")
        assert time.monotonic() - began > 0.5, "the disk is not slow"
        await until(store, operation.name, running)
        began = time.monotonic()
        assert client.get_model("tiny").name == "tiny"
        assert time.monotonic() - began < 1
        record = await store.wait(operation.name, 90)
        assert (record.metadata.state, record.metadata.attempt) == (SUCCEEDED, 1)
        assert sha256(record) == undisturbed(tiny_models, request)
        assert operation.artifact("image").shape == (1, 3, 32, 32)


async def test_artifacts_of_a_job_are_removed(
    client: Client,
    seen: JobStore,
    worker: WorkerProcess,
    shared_settings: WorkerSettings,
    tiny_models: Path,
    tmp_path: Path,
) -> None:
    """While it runs, it makes them anew. An attempt after that fails by name, and so does who reads them."""
    request, place = dream(300), Path(shared_settings.artifacts)
    for crashes in (False, True):
        operation = client.submit(request.deepdream, model="tiny")
        await until(seen, operation.name, running)
        (place / operation.name).rename(tmp_path / f"removed-{crashes}")  # At once, while it is written to.
        if crashes:
            worker.device_process().kill()
        record = await seen.wait(operation.name, 90)
        if crashes:
            assert record.metadata.state == FAILED
            assert record.error is not None
            assert f"the artifact store has no {operation.name}/request" in record.error.message
            continue
        assert (record.metadata.state, sha256(record)) == (SUCCEEDED, undisturbed(tiny_models, request))
        assert operation.artifact("image").shape == (1, 3, 32, 32)
        shutil.rmtree(place / operation.name)
        with pytest.raises(NotFound, match=f"the artifact store has no {operation.name}/artifacts"):
            client.operation(operation.name).artifact("image")
        operation.delete()
    assert await still_works(seen)


async def test_all_that_redis_holds_is_removed(
    client: Client,
    seen: JobStore,
    worker: WorkerProcess,
    shared_redis: RedisServer,
    shared_settings: WorkerSettings,
) -> None:
    """Jobs are gone, and who asks is told; artifacts stay, for a backup may know them; all else goes on."""
    operation = client.submit(dream(2000).deepdream, model="tiny")
    await until(seen, operation.name, running)
    shared_redis.flush()
    with pytest.raises(NotFound):
        client.operation(operation.name)
    with pytest.raises(NotFound):
        list(operation.watch())
    assert client.operations() == []
    id_ = operation.name.removeprefix("operations/")
    eventually(
        lambda: any(
            line.get("operation") == id_ and "attempt ended" in str(line["message"])
            for line in worker.lines()
        ),
        10,
        worker.describe,
    )
    assert await still_works(seen)
    assert (await seen.stats())[0].workers == 1
    assert list((Path(shared_settings.artifacts) / operation.name / "request").iterdir())
