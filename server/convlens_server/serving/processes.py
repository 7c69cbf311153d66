"""Several server processes that share one port, begin together and end together.

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

READY: Final = re.compile(rb"convlens-server ready on (?P<address>\S+) \((?P<services>.*)\)\n")
KILL_DELAY: Final = 10.0
"""Seconds beyond the grace after which a process that drains is killed."""

log = logging.getLogger("convlens.server")


async def supervise(settings: ServerSettings) -> None:
    """Serve with `settings.processes` processes until a signal comes.

    Raises:
        Unavailable: the address cannot be had.
        Internal: a process has ended by itself, or badly.
    """
    check_free(settings.listen)
    stopping = stop_signal()
    children = [await _start(settings, index) for index in range(settings.processes)]
    ends = [asyncio.create_task(child.wait()) for child in children]
    try:
        await _until(stopping, ends, asyncio.create_task(_ready(children)))
        await _until(stopping, ends, asyncio.create_task(_pass_on(children)))
        early = [child for child in children if child.returncode is not None]
        log.info("draining %d processes, for at most %g s", len(children) - len(early), settings.grace)
    finally:
        await _end(children, ends, settings.grace + KILL_DELAY)
    if not stopping.is_set():
        ended = ", ".join(f"{child.pid} with code {child.returncode}" for child in early)
        raise Internal(f"process {ended} ended by itself")
    if bad := [child for child in children if child.returncode]:
        raise Internal(f"process {bad[0].pid} ended with code {bad[0].returncode}")


def stop_signal() -> asyncio.Event:
    """An event that is set when SIGTERM or SIGINT comes."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return stopping


def environment(settings: ServerSettings, index: int) -> dict[str, str]:
    """The variables in which a process differs from the others: its share of the CPUs, and its own ports."""
    return {
        "CONVLENS_PROCESSES": "1",
        "CONVLENS_SHARE_PORT": "1",
        "CONVLENS_THREADS": str(share(settings.threads, settings.processes, index)),
        "CONVLENS_LANES": str(share(settings.lanes, settings.processes, index)),
        "CONVLENS_METRICS_LISTEN": beside(settings.metrics_listen, index),
        "CONVLENS_HEALTH_LISTEN": beside(settings.health_listen, index),
    }


def share(total: int, processes: int, index: int) -> int:
    """The part of `total` that the process at `index` gets, which is at least 1."""
    return max(1, total // processes + (index < total % processes))


def beside(listen: str, index: int) -> str:
    """The address "host:port" with a port that is `index` higher; empty stays empty."""
    host, _, port = listen.rpartition(":")
    return f"{host}:{int(port) + index}" if listen else ""


def check_free(listen: str) -> None:
    """Raise Unavailable if somebody listens there already, with whom the port would be shared by mistake."""
    host, _, port = listen.rpartition(":")
    try:
        addresses = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        family, kind, *_, address = addresses[0]
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
    """Print one ready line when all processes have printed theirs."""
    lines = [READY.fullmatch(await _line(child)) for child in children]
    if all(lines) and (first := lines[0]):
        address, services = (first[name].decode() for name in ("address", "services"))
        print(f"convlens-server ready on {address} ({services}, {len(children)} processes)", flush=True)


async def _pass_on(children: Sequence[Process]) -> None:
    """Pass on whatever else the processes print."""

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
    """Have all processes drain, and kill those that have not ended after so many seconds."""
    for child in children:
        if child.returncode is None:
            child.terminate()
    await asyncio.wait(ends, timeout=seconds)
    for child in children:
        if child.returncode is None:
            child.kill()
    await asyncio.wait(ends)
