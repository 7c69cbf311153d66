"""Each operation of both stores of jobs meets each fault once, in the course of whole lives of jobs.

What is counted is what really happens: a new operation is met as soon as a life needs it, and one that none
needs fails `test_lives_need_every_operation`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.disk import DISK_FAULTS, OPERATIONS, Disk
from support.lives import LIVES, Plane
from support.redis_proxy import FAULTS, RedisProxy
from support.redis_server import RedisServer

from convlens.errors import FailedPrecondition, NotFound
from convlens_workers import attempt
from convlens_workers.jobs import JobStore, artifacts, connection, scripts
from convlens_workers.jobs.worker_job_store import WorkerJobStore


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Where all is waited for that will not come, for less than it would be."""
    monkeypatch.setattr(attempt, "TICK", 0.01)
    if "no reply in time" in request.node.name:
        monkeypatch.setattr(connection, "SOCKET_TIMEOUT", 0.3)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(tmp_path / "artifacts")
    monkeypatch.setattr(artifacts, "obstore", disk)
    return disk


@pytest.fixture(scope="module")
def proxy(shared_redis: RedisServer) -> Iterator[RedisProxy]:
    with RedisProxy(shared_redis.url) as proxy:
        yield proxy


@pytest.fixture
def direct(shared_redis: RedisServer) -> str:
    return shared_redis.url


@asynccontextmanager
async def opened(proxy: RedisProxy, direct: str, disk: Disk) -> AsyncIterator[Plane]:
    plane = Plane(proxy.url, direct, disk.folder)
    try:
        yield plane
    finally:
        proxy.break_one(0, None)
        disk.break_one(0, None)
        await plane.close()


async def lived(life: str, plane: Plane, breaker: Any, number: int, fault: Any) -> list[str]:
    """The operations of a life whose `number`th one met the fault; empty where it has fewer."""
    breaker.break_one(number, fault)
    await LIVES[life](plane)
    seen, broken = breaker.seen, breaker.broken
    breaker.break_one(0, None)
    plane.check_nothing_is_left()
    return seen if broken or not number else []


def chosen(seen: list[str], *, every: bool) -> list[int]:
    """Numbers of operations: all, or the first of each name."""
    return [number for number, name in enumerate(seen, 1) if every or name not in seen[: number - 1]]


pytestmark = pytest.mark.timeout(1800)  # A life a cell, some seconds each where others use the machine.
LOST = "artifact store has no|has lost its checkpoint"

QUICK = {"reply lost, twice", "partial write", "EIO, yet done", "vanished"}


def cells(faults: dict[str, Any]) -> list[Any]:
    """Faults, as parameters of a test; quick ones meet the first operation of each name, others each one."""
    quick = [pytest.param(fault, False) for fault in faults if fault in QUICK]
    return quick + [pytest.param(fault, True, marks=pytest.mark.slow) for fault in faults]


@pytest.mark.parametrize(("fault", "every"), cells(FAULTS))
@pytest.mark.parametrize("life", LIVES)
async def test_redis(life: str, fault: str, every: bool, proxy: RedisProxy, direct: str, disk: Disk) -> None:
    """The job ends as it should, once, with the right bytes, and nothing is left of it."""
    async with opened(proxy, direct, disk) as plane:
        seen = await lived(life, plane, proxy, 0, None)
    for number in chosen(seen, every=every):
        async with opened(proxy, direct, disk) as plane:
            with named_by(life, fault, seen, number):
                await lived(life, plane, proxy, number, FAULTS[fault])
                assert not plane.missing


@pytest.mark.parametrize(("fault", "every"), cells(DISK_FAULTS))
@pytest.mark.parametrize("life", LIVES)
async def test_artifact_store(
    life: str, fault: str, every: bool, proxy: RedisProxy, direct: str, disk: Disk
) -> None:
    """The same; what needs an object that has vanished ends with an error that names it."""
    met = DISK_FAULTS[fault]
    async with opened(proxy, direct, disk) as plane:
        seen = [name for name in await lived(life, plane, disk, 0, None) if name in met.operations]
    for number in chosen(seen, every=every):
        async with opened(proxy, direct, disk) as plane:
            with named_by(life, fault, seen, number):
                try:
                    await lived(life, plane, disk, number, met)
                except (NotFound, FailedPrecondition) as error:
                    if fault != "vanished" or not re.search(LOST, str(error)):
                        raise
                    disk.break_one(0, None)
                    for name in list(plane.names):
                        await plane.end(name)
                        await plane.delete(name)
                    plane.check_nothing_is_left()
                assert fault == "vanished" or not plane.missing


@contextmanager
def named_by(life: str, fault: str, seen: list[str], number: int) -> Iterator[None]:
    """Failures say which cell of the table it was."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{life}: {fault} at {number}, {seen[number - 1]}: {error!r}") from error


async def test_lives_need_every_operation(proxy: RedisProxy, direct: str, disk: Disk) -> None:
    """So the tables have a row for each: methods of both stores, scripts, and what is asked of the disk."""
    asked: dict[type, set[str]] = {JobStore: set(), WorkerJobStore: set()}
    commands, operations = set(), set()
    for life in LIVES:
        async with opened(proxy, direct, disk) as plane:
            disk.break_one(0, None)
            commands |= set(await lived(life, plane, proxy, 0, None))
            operations |= set(disk.seen)
            for store in asked:
                asked[store] |= plane.seen[store]
    for store, methods in asked.items():
        public = {name for name, _ in inspect.getmembers(store, inspect.isfunction) if name[0] != "_"}
        assert public - methods == {"check", "close"} & public, store
    assert set(scripts.NAMES) <= commands
    assert operations == OPERATIONS
