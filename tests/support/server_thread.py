"""A real server in a thread of this process, for tests that call it through gRPC from ordinary functions."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from convlens_server.app import App
from convlens_server.settings import ServerSettings


@contextmanager
def serving(**settings: Any) -> Iterator[App]:
    """A server on a free port, without a job gateway unless `redis` is given; `App.address` says where."""
    started: Future[App] = Future()
    stop = threading.Event()

    async def serve() -> None:
        try:
            app = await App.start(
                ServerSettings(**{"listen": "127.0.0.1:0", "redis": "", "warm": (), **settings})
            )
        except BaseException as error:
            started.set_exception(error)
            return
        async with app:
            started.set_result(app)
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=asyncio.run, args=[serve()], name="server")
    thread.start()
    try:
        yield started.result(60)
    finally:
        stop.set()
        thread.join()
