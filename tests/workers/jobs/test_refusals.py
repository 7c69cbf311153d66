"""What Redis may answer instead of doing what it is asked, and what callers of the job plane are told."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import redis
from support.jobs import request, submit
from support.redis_server import RedisServer
from support.refusals import REFUSALS

from convlens.errors import ConvLensError, ResourceExhausted, Unavailable
from convlens_workers.jobs import JobSettings, JobStore
from convlens_workers.jobs.connection import connect_worker
from convlens_workers.jobs.redis_errors import ANSWERS, AWAY, LOST, Answer, Meaning, answer, redis_errors
from convlens_workers.jobs.worker_job_store import WorkerJobStore

SAID = {
    "-OOM command not allowed when used memory > 'maxmemory'.": Meaning.FULL,
    "-ERR Error running script (call to f_1): @user_script:9: -OOM command not allowed": Meaning.FULL,
    "-MISCONF Errors writing to the AOF file: No space left on device": Meaning.WAIT,
    "-NOREPLICAS Not enough good replicas to write.": Meaning.WAIT,
    "-LOADING Redis is loading the dataset in memory": Meaning.WAIT,
    "-BUSY Redis is busy running a script.": Meaning.WAIT,
    "-TRYAGAIN Multiple keys request during rehashing of slot": Meaning.WAIT,
    "-EXECABORT Transaction discarded because of previous errors.": Meaning.WAIT,
    "-NOSCRIPT No matching script. Please use EVAL.": Meaning.WAIT,
    "-ERR max number of clients reached": Meaning.WAIT,
    "-READONLY You can't write against a read only replica.": Meaning.ELSEWHERE,
    "-UNBLOCKED force unblock from blocking operation, instance state changed": Meaning.ELSEWHERE,
    "-MASTERDOWN Link with MASTER is down": Meaning.ELSEWHERE,
    "-NOPERM this user has no permissions to run the 'hset' command": Meaning.OPERATOR,
    "-ERR ACL failure in script: User u has no permissions to run the 'set' command": Meaning.OPERATOR,
    "-ERR The user executing the script can't run this command or subcommand": Meaning.OPERATOR,
    "-ERR EXEC without MULTI": Meaning.OPERATOR,
    "-WRONGPASS invalid username-password pair or user is disabled.": Meaning.OPERATOR,
    "-NOAUTH Authentication required.": Meaning.OPERATOR,
    "-DENIED Redis is running in protected mode": Meaning.OPERATOR,
    "-CLUSTERDOWN Hash slot not served": Meaning.OPERATOR,
    "-MOVED 3999 127.0.0.1:6381": Meaning.OPERATOR,
    "-ERR unknown command `LMOVE`, with args beginning with: `a`": Meaning.OPERATOR,
    "-ERR DB index is out of range": Meaning.OPERATOR,
    "-WRONGTYPE Operation against a key holding the wrong kind of value": Meaning.OPERATOR,
}


@pytest.mark.parametrize("said", SAID)
def test_every_row_as_redis_says_it(said: str) -> None:
    """As the client library reads it, which cuts off some of the codes, and changes the class."""
    error = redis._parsers.base.BaseParser.parse_error(said.removeprefix("-"))
    with pytest.raises(AWAY) as raised, redis_errors():
        raise error
    row = answer(error)
    assert isinstance(row, Answer)
    assert row.meaning == SAID[said]
    assert isinstance(raised.value, ConvLensError)
    assert raised.value.retry_after == row.meaning.value[1]
    assert isinstance(raised.value, ResourceExhausted) == (row.meaning is Meaning.FULL)


def test_each_row_is_seen_and_the_rest_is_a_fault_of_ours() -> None:
    seen = {answer(redis._parsers.base.BaseParser.parse_error(said[1:])) for said in SAID}
    assert seen == set(ANSWERS)
    assert answer(redis.ConnectionError("Connection refused")) is answer(redis.TimeoutError("slow")) is LOST
    with pytest.raises(redis.ResponseError), redis_errors():
        raise redis.ResponseError("user_script:3: attempt to index a nil value")


def calls(store: JobStore, name: str) -> dict[str, Callable[[], Awaitable[object]]]:
    """The calls of a server, those that write first."""
    return {
        "submit": lambda: store.submit(request(), model_digest="abc"),
        "cancel": lambda: store.cancel(name),
        "ping": store.ping,
        "get": lambda: store.get(name),
        "list": store.list,
        "stats": store.stats,
        "wait": lambda: store.wait(name, 0.01),
    }


@pytest.mark.parametrize("code", REFUSALS)
async def test_no_call_of_a_server_is_more_than_refused(
    code: str, store: JobStore, redis_server: RedisServer
) -> None:
    """By what the table says; calls that read may succeed, and all do so afterwards."""
    refusal = REFUSALS[code]
    name = await submit(store)
    refused = {}
    with refusal.provoked(redis_server):
        for call, begin in calls(store, name).items():
            try:
                await begin()
            except AWAY as error:
                refused[call] = error
    assert {"submit", *(["ping"] * (code != "OOM"))} <= set(refused)
    for error in refused.values():
        assert isinstance(error, refusal.kind)
        assert re.search(refusal.says, str(error))
        assert error.retry_after
    for begin in calls(store, name).values():
        await begin()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"cluster_enabled": "yes"}, "must be one server"),
        ({"rename_command": ("EVALSHA", "")}, "lacks a command"),
    ],
)
async def test_a_redis_that_cannot_serve_is_named(
    options: dict[str, object], says: str, settings: JobSettings, tmp_path: Path
) -> None:
    server = RedisServer(tmp_path, **options)
    server.start()
    try:
        store = JobStore.open(settings.model_copy(update={"redis": server.url}))
        with pytest.raises(Unavailable, match=says):
            await submit(store)
        await store.close()
    finally:
        server.stop()


@pytest.mark.parametrize("who", ["server", "worker"])
async def test_after_a_failover_the_name_is_looked_up_again(
    who: str, settings: JobSettings, tmp_path: Path
) -> None:
    """Connections to the old primary, a replica now, are open still; the name leads to the new one."""
    name = tmp_path / "name"
    old, new = (
        RedisServer(tmp_path / each, unixsocket=tmp_path / f"{each}.sock", port=0) for each in ("old", "new")
    )
    for server in (old, new):
        server.url = f"unix://{server.folder}.sock"
        server.start()
    try:
        name.symlink_to(tmp_path / "old.sock")
        settings = settings.model_copy(update={"redis": f"unix://{name}"})
        store = JobStore.open(settings)
        by_hand = WorkerJobStore(connect_worker(settings.redis, socket_connect_timeout=1), settings, 1.0)
        await submit(store)
        assert by_hand.may_tidy()
        with redis.Redis.from_url(old.url) as client:
            client.replicaof("127.0.0.1", 1)
        name.unlink()
        name.symlink_to(tmp_path / "new.sock")
        if who == "server":
            assert await submit(store, "again")
        else:
            assert by_hand.may_tidy()
        await store.close()
    finally:
        for server in (old, new):
            server.kill()
