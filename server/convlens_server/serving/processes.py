"""Several servers behind one port: processes that share it, begin together and end together.

The kernel spreads connections over them (SO_REUSEPORT); a client's channel is one connection. None is started
again: when one ends by itself the others are drained, and whatever started all of them starts all again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from convlens.errors import Internal, Unavailable
from convlens_server.settings import ServerSettings
from convlens_workers.parent_death import parent_death_signal

READY: Final = re.compile(rb"convlens-server ready on (?P<address>\S+) \((?P<lanes>.*)\)\n")
LATER: Final = 10.0
"""Seconds beyond the grace after which a process that drains is killed."""

log = logging.getLogger("convlens.server")


async def supervise(settings: ServerSettings) -> None:
    """Serve with `settings.processes` processes until a signal comes.

    Raises:
        Unavailable: the address cannot be had.
        Internal: a process has ended by itself, or badly.
    """
    check_free(settings.listen)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    children = [await _start(settings, index) for index in range(settings.processes)]
    ends = [asyncio.create_task(child.wait()) for child in children]
    try:
        await _until(stopping, ends, asyncio.create_task(_ready(children)))
        await _until(stopping, ends, asyncio.create_task(_pass_on(children)))
        early = [child for child in children if child.returncode is not None]
        log.info("draining %d processes, for at most %g s", len(children) - len(early), settings.grace)
    finally:
        await _end(children, ends, settings.grace + LATER)
    if not stopping.is_set():
        told = ", ".join(f"{child.pid} with code {child.returncode}" for child in early)
        raise Internal(f"process {told} ended by itself")
    if bad := [child for child in children if child.returncode]:
        raise Internal(f"process {bad[0].pid} ended with code {bad[0].returncode}")


def environment(settings: ServerSettings, index: int) -> dict[str, str]:
    """What the environment of a process says beside that of all: its share of the CPUs, its own ports."""
    return {
        "CONVLENS_PROCESSES": "1",
        "CONVLENS_SHARE_PORT": "1",
        "CONVLENS_THREADS": str(share(settings.threads, settings.processes, index)),
        "CONVLENS_LANES": str(share(settings.lanes, settings.processes, index)),
        "CONVLENS_METRICS_LISTEN": beside(settings.metrics_listen, index),
        "CONVLENS_HEALTH_LISTEN": beside(settings.health_listen, index),
    }


def share(total: int, processes: int, index: int) -> int:
    """That of one of them; at least 1."""
    return max(1, total // processes + (index < total % processes))


def beside(listen: str, index: int) -> str:
    """ "host:port" with the port so many further; empty stays empty."""
    host, _, port = listen.rpartition(":")
    return f"{host}:{int(port) + index}" if listen else ""


def check_free(listen: str) -> None:
    """Raises Unavailable unless nobody listens there: others could share the port too, by mistake."""
    host, _, port = listen.rpartition(":")
    try:
        family, kind, *_, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[
            0
        ]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise Unavailable(f"cannot listen on {listen}: {error}") from error


async def _start(settings: ServerSettings, index: int) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "convlens_server",
        env={**os.environ, **environment(settings, index)},
        stdout=PIPE,
        start_new_session=True,  # Ctrl-C reaches the parent alone, which then drains them.
        preexec_fn=parent_death_signal(signal.SIGTERM),  # Then it also drains when the parent is killed.
    )


async def _ready(children: Sequence[Process]) -> None:
    """Prints the one ready line when all have said theirs."""
    found = [READY.fullmatch(await _line(child)) for child in children]
    if all(found) and (first := found[0]):
        address, lanes = (first[name].decode() for name in ("address", "lanes"))
        print(f"convlens-server ready on {address} ({lanes}, {len(children)} processes)", flush=True)


async def _pass_on(children: Sequence[Process]) -> None:
    """What else they print."""

    async def one(child: Process) -> None:
        while line := await _line(child):
            sys.stdout.buffer.write(line)
            sys.stdout.flush()

    await asyncio.gather(*map(one, children))


async def _line(child: Process) -> bytes:
    return await child.stdout.readline() if child.stdout else b""


async def _until(
    stopping: asyncio.Event, ends: Sequence[asyncio.Task[int]], work: asyncio.Task[None]
) -> None:
    """Wait for `work`, unless a signal comes or a process ends before."""
    signalled = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait((*ends, work, signalled), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (work, signalled):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def _end(children: Sequence[Process], ends: Sequence[asyncio.Task[int]], seconds: float) -> None:
    """Have all drain; kill those that do not."""
    for child in children:
        if child.returncode is None:
            child.terminate()
    await asyncio.wait(ends, timeout=seconds)
    for child in children:
        if child.returncode is None:
            child.kill()
    await asyncio.wait(ends)
