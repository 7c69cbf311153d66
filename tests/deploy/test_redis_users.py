"""The users' file of Redis: what server, worker and autoscaler need works, and all else is refused."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.asyncio import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.retry import Retry
from support.job_plane import dream, opened, running, until
from support.lives import LIVES, Plane
from support.redis_server import free_port, redis_binary
from support.worker_process import WorkerProcess, eventually

from convlens.v1 import collection_pb2, job_pb2
from convlens_server.cache.reply_cache import OVERHEAD, ReplyCache
from convlens_server.settings import ServerSettings
from convlens_workers.collections import CollectionIndex
from convlens_workers.jobs import JobStore
from convlens_workers.jobs.redis_errors import answer
from convlens_workers.settings import WorkerSettings

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes" / "base" / "redis"
USERS = ("frontend", "worker", "autoscaler")
KEDA = """
    local listName = KEYS[1]
    local listType = redis.call('type', listName).ok
    local cmd = {zset = 'zcard', set = 'scard', list = 'llen', hash = 'hlen', none = 'llen'}
    return redis.call(cmd[listType], listName)
"""
"""What KEDA's scaler `redis` asks, in its words."""
FORBIDDEN = {
    "frontend": (
        ["FLUSHALL"],
        ["KEYS", "*"],
        ["CONFIG", "GET", "requirepass"],
        ["ACL", "LIST"],
        ["SET", "elsewhere", ""],
        ["GET", "elsewhere"],
        ["HGETALL", "rq:worker:one"],
        ["EVAL", "return 1", "0"],
        ["SUBSCRIBE", "elsewhere"],
        ["SHUTDOWN"],
    ),
    "worker": (
        ["FLUSHALL"],
        ["KEYS", "*"],
        ["CONFIG", "SET", "maxmemory", "1"],
        ["ACL", "SETUSER", "worker", "allkeys"],
        ["HGETALL", "convlens:collection:one"],
        ["DEL", "convlens:collections"],
        ["GET", "convlens:cache:reply"],
        ["EVAL", "return 1", "0"],
        ["SUBSCRIBE", "convlens:changed"],
        ["SLOWLOG", "GET"],
    ),
    "autoscaler": (
        ["RPUSH", "rq:queue:convlens", "job"],
        ["LPOP", "rq:queue:convlens"],
        ["DEL", "rq:queue:convlens"],
        ["LRANGE", "rq:queue:convlens", "0", "-1"],
        ["HGETALL", "convlens:operation:one"],
        ["EVAL", "return redis.call('DEL', KEYS[1])", "1", "rq:queue:convlens"],
        ["EVAL", "return redis.call('LLEN', 'elsewhere')", "0"],
    ),
    "probe": (["LLEN", "rq:queue:convlens"], ["INFO"], ["ACL", "WHOAMI"]),
}


class Guarded:
    """A Redis with the kit's users, and with one for this test who may do everything."""

    def __init__(self, folder: Path) -> None:
        (folder / "passwords").mkdir()
        for name in USERS:
            (folder / "passwords" / name).write_text(f"the {name}'s\n")
        users = folder / "users.acl"
        users.write_text(rendered(folder / "passwords") + "user root on >root allkeys allchannels +@all\n")
        self.port = free_port()
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--aclfile", str(users)]
        self.process = subprocess.Popen([redis_binary(), *options], stdout=subprocess.DEVNULL)
        with self.client("root", "root") as root:
            eventually(lambda: answers(root))

    def url(self, user: str) -> str:
        return f"redis://{user}:the {user}'s@127.0.0.1:{self.port}/0".replace(" ", "%20")

    def client(self, user: str, password: str | None = None) -> redis.Redis:
        return redis.Redis(port=self.port, username=user, password=password or f"the {user}'s")

    def denied(self) -> list[str]:
        """What was refused since the last question, without what all do very well without.

        Clients tell Redis the name of their library, and a worker would like to warn of a policy of eviction.
        """
        with self.client("root", "root") as root:
            found = [f"{entry['username']}: {entry['reason']} {entry['object']}" for entry in root.acl_log()]
            root.acl_log_reset()
        return [what for what in found if not {"client", "config"} & set(re.split(r"\W", what))]


def rendered(passwords: Path) -> str:
    """What the init container makes of the rules."""
    command = ["sh", str(FOLDER / "render-users.sh"), str(FOLDER / "users.acl"), str(passwords)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    server = Guarded(tmp_path_factory.mktemp("guarded"))
    yield server
    server.process.terminate()
    server.process.wait(10)


async def test_front_end_and_worker_have_all_that_they_need(
    guarded: Guarded, tmp_path: Path, tiny_models: Path
) -> None:
    guarded.denied()
    kept = tmp_path / "artifacts"
    settings = WorkerSettings(
        redis=guarded.url("worker"), artifacts=str(kept), models=tiny_models, device="cpu", lease=2.0
    )
    worker = WorkerProcess(settings, tmp_path)
    try:
        async with opened(settings.model_copy(update={"redis": guarded.url("frontend")})) as store:
            await _life_of_jobs(store, worker)
            assert worker.terminate() == 0, worker.describe()
    finally:
        worker.end()
    assert guarded.denied() == []


@pytest.mark.parametrize("life", LIVES)
async def test_each_operation_on_jobs_is_within_the_rights_of_its_user(
    life: str, guarded: Guarded, tmp_path: Path
) -> None:
    """Without processes, but with all that may happen to a job."""
    root = f"redis://root:root@127.0.0.1:{guarded.port}/0"
    guarded.denied()
    plane = Plane(guarded.url("frontend"), root, tmp_path, worker=guarded.url("worker"))
    await LIVES[life](plane)
    await plane.close()
    assert guarded.denied() == []


async def _life_of_jobs(store: JobStore, worker: WorkerProcess) -> None:
    await store.ping()
    first = await store.submit(dream(2, request_id="one"), model_digest="digest")
    worker.ready()
    done = await store.wait(first.name, 60)
    assert done.metadata.state == job_pb2.JOB_STATE_SUCCEEDED, worker.describe()
    assert [event async for event in store.watch(first.name)][-1][1].state == job_pb2.JOB_STATE_SUCCEEDED
    long = await store.submit(dream(10_000), model_digest="digest")
    await until(store, long.name, running)
    assert (await store.stats())[0].running == 1
    await store.cancel(long.name)
    assert (await store.wait(long.name, 30)).metadata.state == job_pb2.JOB_STATE_CANCELLED
    last = await store.submit(dream(10_000), model_digest="digest")
    await until(store, last.name, running)
    worker.terminate()  # Gives the job back; now it waits, and can be cancelled at once.
    assert (await store.get(last.name)).metadata.state == job_pb2.JOB_STATE_QUEUED
    await store.cancel(last.name)
    assert len((await store.list())[0]) == 3
    await store.delete(first.name)


@pytest.mark.parametrize("owner", ["", "tenant"])
async def test_front_end_keeps_collections(guarded: Guarded, owner: str) -> None:
    guarded.denied()
    async with Redis.from_url(guarded.url("frontend")) as client:
        index = CollectionIndex(client, 10, owner)
        await index.create("photos")
        image = collection_pb2.CollectionImage(name="cat", digest="0" * 64, bytes=10)
        await index.add("photos", image)
        await index.describe("photos", {"set": collection_pb2.FeatureSet()})
        assert (await index.named("photos", "cat")).digest == image.digest
        assert len((await index.page("photos", 10, ""))[0]) == 1
        assert [found.id for found in (await index.collections(10, ""))[0]] == ["photos"]
        await index.delete("photos")
    assert guarded.denied() == []


def test_front_end_remembers_replies(guarded: Guarded) -> None:
    guarded.denied()
    room = 2 * (OVERHEAD + 10)  # For two.
    settings = ServerSettings.model_construct(  # Not validated, so that sizes may be fractions.
        redis=guarded.url("frontend"),
        cache_seconds=0.5,
        cache_entry_kilobytes=100 / 2**10,
        cache_megabytes=room / 2**20,
    )
    replies = ReplyCache(settings)
    try:
        for name in ("first", "second", "third", "third"):
            replies.put(name, name.encode())
        replies.flush()
        assert [replies.get(name) for name in ("first", "second", "third")] == [None, b"second", b"third"]
        eventually(lambda: replies.get("third") is None)
        replies.put("fourth", b"fourth")  # Tidies up after those whose time has come.
        replies.flush()
        assert replies.get("fourth") == b"fourth"
    finally:
        replies.close()
    assert guarded.denied() == []


def test_autoscaler_counts_waiting_and_running_jobs(guarded: Guarded) -> None:
    with guarded.client("root", "root") as root, guarded.client("autoscaler") as keda:
        assert keda.eval(KEDA, 1, "rq:queue:convlens") == 0
        root.rpush("rq:queue:convlens", "a", "b")
        root.zadd("convlens:leases:convlens", {"c": 1})
        try:
            assert keda.eval(KEDA, 1, "rq:queue:convlens") == 2
            assert keda.eval(KEDA, 1, "convlens:leases:convlens") == 1
        finally:
            root.delete("rq:queue:convlens", "convlens:leases:convlens")


@pytest.mark.parametrize(
    ("user", "command"), [(user, command) for user, commands in FORBIDDEN.items() for command in commands]
)
def test_all_else_is_refused(guarded: Guarded, user: str, command: list[str]) -> None:
    with guarded.client(user) as client, pytest.raises(ResponseError) as refused:
        client.execute_command(*command)
    row = answer(refused.value)  # Versions differ in their words, more so for what a script may not do.
    assert row is not None
    assert "see its ACL" in row.says


def test_probe_may_ping_and_nobody_comes_in_without_a_name(guarded: Guarded) -> None:
    with guarded.client("probe", "any") as probe:
        assert probe.ping()
    for credentials in ({}, {"username": "frontend", "password": "the worker's"}):
        client = redis.Redis(port=guarded.port, retry=Retry(NoBackoff(), 0), **credentials)
        with client, pytest.raises(redis.AuthenticationError):
            client.ping()


def test_users_without_password_are_no_file(tmp_path: Path) -> None:
    (tmp_path / "frontend").write_text("one")
    with pytest.raises(subprocess.CalledProcessError) as failed:
        rendered(tmp_path)
    assert failed.value.stdout.split() == ["worker", "autoscaler"]


def test_no_password_is_in_the_file_of_users(tmp_path: Path) -> None:
    for name in USERS:
        (tmp_path / name).write_text(f"secret-of-{name}")
    assert "secret" not in rendered(tmp_path)
