"""What an attempt's runner makes of what it sees, without processes and without Redis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from convlens.errors import ConvLensError
from convlens.v1 import job_pb2
from convlens.v1.tensor_pb2 import TensorHeader
from convlens_workers import attempt as module
from convlens_workers.attempt import TRANSITIONS, AttemptRunner, AttemptState
from convlens_workers.jobs.worker_job_store import Attempt, LeaseStatus
from convlens_workers.messages import Checkpointed, Died, Event, Failed, Saved, Start, Stop, Stopped, Waiting
from convlens_workers.settings import WorkerSettings

HELD, CANCELLED, LOST = LeaseStatus(False, False), LeaseStatus(False, True), LeaseStatus(True, False)

HEADER = TensorHeader(name="so_far", sha256="ab" * 32)


class Tick(NamedTuple):
    """What comes while the runner waits for an event: the event, the state of the lease, and the signal."""

    event: Event | None = None
    status: LeaseStatus = HELD
    draining: bool = False
    seconds: float = 1.0


class Script:
    """Device process, job store and clock, as the ticks of a test say."""

    device = "cpu"

    def __init__(self, *ticks: Tick) -> None:
        self._ticks: Iterator[Tick] = iter(ticks)
        self.now = Tick()
        self.clock = 0.0
        self.sent: list[Start | Stop] = []
        self.killed = False
        self.written: list[object] = []

    def monotonic(self) -> float:
        return self.clock

    def receive(self, _: float) -> Event | None:
        self.now = next(self._ticks)
        self.clock += self.now.seconds
        return self.now.event

    def send(self, message: Start | Stop) -> None:
        self.sent.append(message)

    def kill(self) -> None:
        self.killed = True

    def update(self, _: Attempt, fields: Any = None, *__: object) -> LeaseStatus:
        if "artifacts" in (fields or {}):
            made = job_pb2.JobResult.FromString(fields["artifacts"])
            self.written.append(("artifacts", list(made.artifacts)))
        return self.now.status

    def fail(self, _: Attempt, error: ConvLensError) -> bool:
        if self.now.status.lost:
            return False
        self.written.append(error.reason)
        return True

    def checkpoint(self, _: Attempt, digest: str) -> str:
        self.written.append(("checkpoint", digest))
        return ""

    def leave(self, _: Attempt, checkpoint: str, artifacts: Sequence[TensorHeader]) -> bool:
        self.written.append(("left", checkpoint, list(artifacts)))
        return True

    def requeue(self, _: Attempt, *, crashed: bool) -> bool:
        self.written.append("crashed" if crashed else "given back")
        return True

    def abandon(self, _: Attempt) -> None:
        self.written.append("abandoned")

    def tidy(self, *_: object) -> None:
        pass


class Case(NamedTuple):
    """Ticks; the stops that are sent; what is written as the end; whether the process is killed."""

    ticks: list[Tick]
    stops: list[Stop]
    written: list[object]
    killed: bool = False


DRAIN = Tick(draining=True)
LONG = Tick(Waiting(), seconds=101)
CASES = {
    "it dies": Case([Tick(Died("signal 9"))], [], ["crashed"], True),
    "it hangs": Case([Tick(seconds=60)], [], ["crashed"], True),
    "the worker ends": Case([DRAIN, Tick(Stopped())], [Stop(True)], ["given back"]),
    "the worker ends, and it does not stop": Case([DRAIN, Tick(seconds=9)], [Stop(True)], ["given back"]),
    "the worker ends, and it dies": Case([DRAIN, Tick(Died("x"))], [Stop(True)], ["crashed"], True),
    "too long": Case([LONG, Tick(Stopped())], [Stop(False)], ["JOB_TIMEOUT"]),
    "too long, and it does not stop": Case([LONG, Tick(seconds=9)], [Stop(False)], ["JOB_TIMEOUT"], True),
    "too long while the worker ends": Case(
        [Tick(Waiting(), seconds=99), DRAIN, Tick(seconds=2), Tick(Stopped())], [Stop(True)], ["JOB_TIMEOUT"]
    ),
    "cancelled": Case([Tick(status=CANCELLED), Tick(Stopped())], [Stop(False)], ["CANCELLED"]),
    "cancelled while the worker ends": Case(
        [DRAIN, Tick(status=CANCELLED), Tick(Stopped())], [Stop(True)], ["CANCELLED"]
    ),
    "lost": Case([Tick(status=LOST), Tick(Stopped())], [Stop(False)], ["abandoned"]),
    "lost, and it fails": Case([Tick(status=LOST), Tick(Failed(b""))], [Stop(False)], ["abandoned"]),
    "lost, and it does not stop": Case(
        [Tick(status=LOST), Tick(seconds=9)], [Stop(False)], ["abandoned"], True
    ),
    "lost, then too long": Case(
        [Tick(status=LOST), Tick(seconds=1), Tick(Stopped(), seconds=101)], [Stop(False)], ["abandoned"]
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_attempt_ends_as_the_table_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    script: Any = Script(*case.ticks)
    run(script, monkeypatch)
    assert script.sent == [Start("0" * 32, "request", ()), *case.stops]
    assert (script.written, script.killed) == (case.written, case.killed)


def run(script: Any, monkeypatch: pytest.MonkeyPatch, *, resumable: bool = False) -> None:
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=script.monotonic, sleep=None))
    metrics: Any = SimpleNamespace(began=lambda: None, ended=lambda _: None, checkpointed=lambda _: None)
    AttemptRunner(
        Attempt("0" * 32, "token", 1, "request", (), resumable=resumable),
        process=script,
        store=script,
        artifacts=script,
        settings=WorkerSettings(hang_timeout=50, job_timeout=100, grace=8),
        draining=lambda: script.now.draining,
        metrics=metrics,
    ).run()


def test_what_there_is_so_far_follows_a_cancel_and_precedes_a_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    late = [Tick(Saved(HEADER.SerializeToString())), Tick(Checkpointed("c")), Tick(Stopped())]
    stop = Stop(True, show=True)
    for first, written in (
        (Tick(status=CANCELLED), ["CANCELLED", ("left", "c", [HEADER])]),
        (LONG, [("artifacts", [HEADER]), ("checkpoint", "c"), "JOB_TIMEOUT"]),
        (Tick(status=LOST), ["abandoned"]),
    ):
        script: Any = Script(first, *late)
        run(script, monkeypatch, resumable=True)
        assert script.sent[1:] == [Stop(False) if first.status is LOST else stop]
        assert script.written == written


def test_every_state_has_its_row_and_none_leads_back() -> None:
    order = list(AttemptState)
    assert list(TRANSITIONS) == order
    assert all(order.index(after) > order.index(state) for state in order for after in TRANSITIONS[state])
