"""Submissions that are answered once they are on Redis's disk: none is lost when Redis is killed."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import redis
from redis.asyncio import Redis
from support.jobs import request, submit
from support.redis_server import RedisServer

from convlens.errors import FailedPrecondition, Unavailable
from convlens_server.app import App
from convlens_server.settings import ServerSettings
from convlens_workers.jobs import JobSettings, JobStore, durability

SLOW = """
#include <unistd.h>
#include <sys/syscall.h>
#include <stdlib.h>
static void slowly(void) { if (access(getenv("SLOW_DISK"), F_OK) == 0) usleep(1800000); }
int fdatasync(int file) { slowly(); return syscall(SYS_fdatasync, file); }
int fsync(int file) { slowly(); return syscall(SYS_fsync, file); }
"""
"""A disk whose syncs take 1.8 s as long as there is a file."""
SECONDS = 12.0


def synced(server: RedisServer, folder: Path) -> JobSettings:
    return JobSettings(redis=server.url, artifacts=str(folder / "artifacts"), submit_durability="synced")


@pytest.fixture
def waited_for(redis_server: RedisServer) -> RedisServer:
    with redis.Redis.from_url(redis_server.url) as client:
        try:
            client.execute_command("WAITAOF", 0, 0, 0)
        except redis.ResponseError:
            pytest.skip("this Redis has no WAITAOF")
    return redis_server


async def test_many_submissions_share_few_waits(waited_for: RedisServer, tmp_path: Path) -> None:
    store = JobStore.open(synced(waited_for, tmp_path).model_copy(update={"queue_limit": 100}))
    names = await asyncio.gather(*(submit(store, str(number)) for number in range(30)))
    assert len(set(names)) == 30
    with redis.Redis.from_url(waited_for.url) as client:
        assert 1 <= client.info("commandstats")["cmdstat_waitaof"]["calls"] <= 30
    await store.close()


async def test_what_is_not_synced_in_time_is_told_and_may_be_asked_again(
    waited_for: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def late(_: object) -> list[object]:
        return [True, [0, 0]]

    store = JobStore.open(synced(waited_for, tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr("redis.asyncio.client.Pipeline.execute", late)
        with pytest.raises(Unavailable, match="not synced") as raised:
            await store._synced.wait()
        assert raised.value.retry_after == durability.RETRY
    assert await submit(store, "one") == await submit(store, "one")
    await store.close()


@pytest.mark.parametrize(
    ("provoked", "says"),
    [
        ({"appendonly": "no"}, "keeps no append-only file"),
        ({"rename_command": ("WAITAOF", "")}, "must be Redis 7.2 or newer"),
    ],
)
async def test_a_redis_that_cannot_be_waited_for_ends_the_start(
    provoked: dict[str, object], says: str, waited_for: RedisServer, tmp_path: Path
) -> None:
    server = RedisServer(tmp_path / "redis", **provoked)
    server.start()
    try:
        asked = synced(server, tmp_path).model_dump(exclude_defaults=True)
        settings = ServerSettings(listen="127.0.0.1:0", **asked)
        with pytest.raises(FailedPrecondition, match=f"CONVLENS_SUBMIT_DURABILITY = synced.*{says}"):
            await App.start(settings)
    finally:
        server.stop()


async def test_a_user_without_the_right_is_told_of_it(waited_for: RedisServer, tmp_path: Path) -> None:
    with redis.Redis.from_url(waited_for.url) as client:
        client.execute_command("ACL", "SETUSER", "default", "-waitaof")
        try:
            store = JobStore.open(synced(waited_for, tmp_path))
            with pytest.raises(FailedPrecondition, match=r"must allow it `\+waitaof`"):
                await store.check()
            await store.close()
        finally:
            client.execute_command("ACL", "SETUSER", "default", "+waitaof")


async def test_a_redis_that_is_away_does_not_end_the_start(tmp_path: Path) -> None:
    store = JobStore.open(JobSettings(redis="redis://127.0.0.1:1/0", submit_durability="synced"))
    await store.check()
    await store.close()


@pytest.fixture
def slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Redis that is started within has a slow disk as long as there is this file."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler makes the slow disk")
    (tmp_path / "slow.c").write_text(SLOW)
    library = tmp_path / "slow.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "slow.c"], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("SLOW_DISK", str(tmp_path / "slow"))
    return tmp_path / "slow"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["received", "synced"])
async def test_jobs_that_were_acknowledged_before_redis_is_killed(
    how: str, waited_for: RedisServer, slow_disk: Path, tmp_path: Path
) -> None:
    """On a slow disk with `everysec`; what is lost, and what a submission takes, is printed."""
    server = RedisServer(tmp_path / "redis", appendfsync="everysec")
    server.start()
    slow_disk.touch()
    settings = synced(server, tmp_path).model_copy(update={"submit_durability": how, "queue_limit": 100_000})
    store = JobStore.open(settings)
    acknowledged: list[str] = []
    seconds: list[float] = []
    until = time.monotonic() + SECONDS

    async def submitting() -> None:
        while time.monotonic() < until:
            began = time.monotonic()
            record = await store.submit(request(), model_digest="digest")
            acknowledged.append(record.name)
            seconds.append(time.monotonic() - began)

    await asyncio.gather(*(submitting() for _ in range(8)), return_exceptions=True)
    server.kill()
    slow_disk.unlink()
    await store.close()
    server.start()
    async with Redis.from_url(server.url) as client:
        kept = [await client.exists(f"convlens:operation:{name.partition('/')[2]}") for name in acknowledged]
    lost = len(kept) - sum(kept)
    mean = sum(seconds) / len(seconds)
    print(f"{how}: {lost} of {len(kept)} acknowledged jobs lost, {mean * 1e3:.0f} ms a submission")
    server.stop()
    assert len(kept) > 8
    if how == "synced":
        assert lost == 0
