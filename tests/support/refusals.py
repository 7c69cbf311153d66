"""What makes a real Redis refuse what it is asked, and lets it do so again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, NamedTuple

import pytest
import redis
from support.redis_server import RedisServer, free_port

from convlens.errors import ConvLensError, ResourceExhausted, Unavailable


@contextmanager
def admin(server: RedisServer) -> Iterator[Any]:
    """One connection that stays open, so that it outlives what is done to others."""
    with redis.Redis.from_url(server.url, single_connection_client=True) as client:
        yield client


@contextmanager
def configured(server: RedisServer, **values: object) -> Iterator[Any]:
    """Redis with other settings."""
    given = {name.replace("_", "-"): value for name, value in values.items()}
    with admin(server) as client:
        before = {name: client.config_get(name)[name] for name in given}
        try:
            for name, value in given.items():
                client.config_set(name, value)
            yield client
        finally:
            for name, value in before.items():
                client.config_set(name, value)


@contextmanager
def full(server: RedisServer) -> Iterator[None]:
    with configured(server, maxmemory=1):
        yield


@contextmanager
def no_replicas(server: RedisServer) -> Iterator[None]:
    with configured(server, min_replicas_to_write=1):
        yield


@contextmanager
def replica(server: RedisServer, stale: str = "yes") -> Iterator[None]:
    """As after a failover; its primary does not answer."""
    with configured(server, replica_serve_stale_data=stale) as client:
        try:
            client.replicaof("127.0.0.1", free_port())
            yield
        finally:
            client.replicaof("NO", "ONE")


@contextmanager
def orphan(server: RedisServer) -> Iterator[None]:
    with replica(server, "no"):
        yield


@contextmanager
def disk_full(server: RedisServer) -> Iterator[None]:
    """A snapshot has failed: there is a folder in its place."""
    with configured(server, save="3600 1") as client:
        snapshot = server.folder / client.config_get("dbfilename")["dbfilename"]
        snapshot.unlink(missing_ok=True)
        snapshot.mkdir()
        try:
            client.bgsave()
            while client.info("persistence")["rdb_last_bgsave_status"] != "err":
                time.sleep(0.02)
            yield
        finally:
            snapshot.rmdir()


@contextmanager
def forbidden(server: RedisServer) -> Iterator[None]:
    """The user has lost the right to write."""
    with admin(server) as client:
        try:
            client.execute_command("ACL", "SETUSER", "default", "-@write")
            yield
        finally:
            client.execute_command("ACL", "SETUSER", "default", "+@all")


@contextmanager
def another_password(server: RedisServer) -> Iterator[None]:
    with admin(server) as client:
        try:
            client.execute_command("ACL", "SETUSER", "default", "resetpass", ">another")
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            yield
        finally:
            client.execute_command("ACL", "SETUSER", "default", "nopass")


@contextmanager
def no_more_clients(server: RedisServer) -> Iterator[None]:
    with configured(server, maxclients=1) as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        yield


@contextmanager
def busy(server: RedisServer) -> Iterator[None]:
    """A script that does not end."""
    with admin(server) as client, redis.Redis.from_url(server.url) as other:
        client.config_set("lua-time-limit", 20)
        endless = threading.Thread(target=_endless, args=(other,))
        endless.start()
        time.sleep(0.1)
        try:
            yield
        finally:
            client.script_kill()
            endless.join()


def _endless(client: Any) -> None:
    with suppress(redis.ResponseError):
        client.eval("while true do end", 0)


class Refusal(NamedTuple):
    """How Redis is made to refuse, and what callers are told, a regular expression."""

    provoked: Callable[[RedisServer], AbstractContextManager[None]]
    says: str
    kind: type[ConvLensError] = Unavailable


REFUSALS = {
    "OOM": Refusal(full, "no memory left", ResourceExhausted),
    "NOREPLICAS": Refusal(no_replicas, "fewer replicas"),
    "READONLY": Refusal(replica, "become a replica"),
    "MASTERDOWN": Refusal(orphan, "lost its primary|become a replica"),
    "MISCONF": Refusal(disk_full, "write to its disk"),
    "NOPERM": Refusal(forbidden, "forbids this to the user in CONVLENS_REDIS"),
    "NOAUTH": Refusal(another_password, "does not take the user and password in CONVLENS_REDIS"),
    "maxclients": Refusal(no_more_clients, "maxclients"),
    "BUSY": Refusal(busy, "busy with a script"),
}


def rows(*, quick: Collection[str]) -> list[Any]:
    """All refusals, as parameters of a test; those that are not `quick` are marked slow."""
    return [pytest.param(code, marks=[] if code in quick else pytest.mark.slow) for code in REFUSALS]
