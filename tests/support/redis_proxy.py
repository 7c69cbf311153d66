"""A proxy in front of a real Redis that understands commands, and breaks one of them as a network would."""

from __future__ import annotations

import hashlib
import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import redis

from convlens_workers.jobs import scripts

SET_UP: Final = {"CLIENT", "HELLO", "SELECT", "SUBSCRIBE", "UNSUBSCRIBE", "SCRIPT", "PING", "INFO"}
"""Commands that clients send on their own account, at any time."""


class Fault(NamedTuple):
    """What becomes of a command."""

    done: bool
    """Whether Redis gets it."""
    reply: str = ""
    """What the client reads in place of Redis's reply; "" nothing, for the connection breaks."""
    silent: bool = False
    """The connection stays, and nothing comes."""
    times: int = 1
    """In how many commands like it, one after the other, it happens: clients try again by themselves."""


FAULTS: Final = {
    "lost before": Fault(done=False),
    "lost before, twice": Fault(done=False, times=2),
    "reply lost": Fault(done=True),
    "reply lost, twice": Fault(done=True, times=2),
    "no reply in time": Fault(done=True, silent=True),
    "WAIT": Fault(done=False, reply="-LOADING Redis is loading the dataset in memory"),
    "ELSEWHERE": Fault(done=False, reply="-READONLY You can't write against a read only replica."),
    "FULL": Fault(done=False, reply="-OOM command not allowed when used memory > 'maxmemory'."),
    "OPERATOR": Fault(done=False, reply="-NOPERM this user has no permissions to run the command"),
}
"""Of the network, and an answer of each meaning of `redis_errors`."""


class RedisProxy:
    """Listens at `url`; the `number`th command from `break_one` on, and those like it, meet the fault.

    Attributes:
        seen: the commands since then, by name; a script by its own.
    """

    def __init__(self, server: str) -> None:
        with redis.Redis.from_url(server) as client:
            self._server = client.connection_pool.connection_kwargs["port"]
            self._scripts = {
                hashlib.sha1(script.script.encode()).hexdigest().encode(): name
                for name, script in scripts.bind(client).items()
            }
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._closing = False
        self._lock = threading.Lock()
        self.break_one(0, None)
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def break_one(self, number: int, fault: Fault | None) -> None:
        """Count anew, from 1; with no fault nothing breaks."""
        self._number, self._fault, self._left = number, fault, fault.times if fault else 0
        self.seen: list[str] = []

    @property
    def broken(self) -> bool:
        """Whether the fault has happened."""
        return self._fault is not None and self._left < self._fault.times

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._closing:
            with suppress(OSError):
                client, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._serve, args=[client]))
                self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._server)) as server, suppress(OSError):
            self._pass_on(client, server)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        asked, told = Reader(client), Reader(server)
        while not self._closing:
            for side in select.select([client, server], [], [], 0.05)[0]:
                reader, begun = (told if side is server else asked), True
                while begun or reader.more:
                    begun, value = False, reader.value()
                    if side is server:
                        client.sendall(value)
                    elif not self._handle(value, reader.last, told, client, server):
                        return

    def _handle(
        self, command: bytes, words: list[Any], told: Reader, client: socket.socket, server: socket.socket
    ) -> bool:
        """Whether the connection stays."""
        fault = self._fault_of(words)
        if fault is None or fault.done:
            server.sendall(command)
            reply = told.value()
        if fault is None:
            client.sendall(reply)
        elif fault.reply:
            client.sendall(f"{fault.reply}\r\n".encode())
        elif fault.silent:
            while not self._closing and not select.select([client], [], [], 0.05)[0]:
                pass  # Until the client closes.
            return False
        return fault is None or bool(fault.reply)

    def _fault_of(self, words: list[Any]) -> Fault | None:
        name = words[0].decode().upper()
        if name in SET_UP:
            return None
        with self._lock:
            name = self._scripts.get(words[1], name) if name == "EVALSHA" else name
            self.seen.append(name)
            here = len(self.seen) == self._number or (self.broken and name == self.seen[self._number - 1])
            if self._fault is None or not here or not self._left:
                return None
            self._left -= 1
            return self._fault


class Reader:
    """Reads values of Redis's protocol, as the bytes that they are."""

    def __init__(self, side: socket.socket) -> None:
        self._side, self._data = side, b""
        self.last: list[Any] = []
        """The strings of the value that was read last, where it is a list of them."""

    @property
    def more(self) -> bool:
        """Whether another value has begun."""
        return bool(self._data)

    def value(self) -> bytes:
        """The next one, whole. Raises OSError at the end."""
        self.last = []
        size = self._size(0)
        value, self._data = self._data[:size], self._data[size:]
        return value

    def _size(self, start: int) -> int:
        """Where the value that begins at `start` ends."""
        end = self._until(lambda: self._data.find(b"\r\n", start) + 2, 2)
        kind, number = self._data[start : start + 1], self._data[start + 1 : end - 2]
        if kind in b"$=!" and number != b"-1":
            size = end + int(number) + 2
            self._until(lambda: len(self._data), size)
            self.last.append(self._data[end : size - 2])
            return size
        for _ in range(int(number) * (2 if kind == b"%" else 1) if kind in b"*~>%" else 0):
            end = self._size(end)
        return end

    def _until(self, look: Callable[[], int], least: int) -> int:
        while (found := look()) < least:
            data = self._side.recv(1 << 16)
            if not data:
                raise ConnectionError
            self._data += data
        return found
