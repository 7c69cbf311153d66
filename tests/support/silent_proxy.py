"""A proxy of TCP whose connections go silent when told: nothing passes, and nobody is told of it."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self


class SilentProxy:
    """Listens on `address`, and passes on what comes; connections that are silent stay open for ever."""

    def __init__(self, server: str) -> None:
        host, _, port = server.rpartition(":")
        self._server = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)
        self._era = 0
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._closing = False
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads[0].start()

    def silence(self) -> None:
        """From now on nothing passes on the connections that there are; new ones are as they should be."""
        self._era += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        for thread in self._threads:
            thread.join()
        for each in (self._listener, *self._sockets):
            each.close()

    def _accept(self) -> None:
        while not self._closing:
            with suppress(TimeoutError):
                client, _ = self._listener.accept()
                pair = (client, socket.create_connection(self._server))
                self._sockets += pair
                self._threads.append(threading.Thread(target=self._pass_on, args=[pair, self._era]))
                self._threads[-1].start()

    def _pass_on(self, pair: tuple[socket.socket, socket.socket], era: int) -> None:
        while not self._closing and self._era == era:
            for side in select.select(pair, [], [], 0.05)[0]:
                with suppress(OSError):
                    data = side.recv(1 << 16)
                    if not data or self._era != era:
                        return
                    pair[side is pair[0]].sendall(data)
