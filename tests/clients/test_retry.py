"""What is tried again, how long, and what is not."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from support.fake_service import FakeService, serving

from convlens import errors
from convlens_client.calls import Rpc
from convlens_client.requests import list_models, watch
from convlens_client.retry import RetryPolicy


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(Rpc, "patience", 1.0)
    monkeypatch.delenv("CONVLENS_PATIENCE", raising=False)


def test_a_server_that_is_away_for_a_moment_is_not_noticed(client, service, pixels):
    service.failures = [errors.Unavailable("restarting"), errors.Unavailable("restarting")]
    assert len(client.classify(pixels)) == 1
    assert len(service.requests) == 3


def test_a_submission_is_repeated_under_the_same_id(client, service, pixels):
    service.failures = [errors.Unavailable("the answer was lost")]
    client.deepdream(pixels)
    first, second = service.requests
    assert first == second
    assert len(service.jobs) == 1


def test_a_broken_stream_of_tensors_begins_anew(client, service, pixels):
    service.breaks = [1, 2]
    assert (client.activations([pixels] * 2, "a")["a"] == 7).all()
    assert len(service.requests) == 3


def test_the_server_says_when_to_come_back(client, service, pixels):
    service.failures = [errors.ResourceExhausted("busy", retry_after=0.3)]
    start = time.monotonic()
    client.classify(pixels)
    assert 0.3 <= time.monotonic() - start < 2


@pytest.mark.parametrize(
    "error",
    [
        errors.ResourceExhausted("too large"),
        errors.InvalidArgument("no", field="top_k"),
        errors.NotFound("no such model"),
        errors.Internal("oops 1234"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_failures_come_at_once_with_their_details(client, service, pixels, error):
    service.failures = [error]
    with pytest.raises(type(error)) as caught:
        client.classify(pixels)
    assert vars(caught.value) == vars(error)
    assert len(service.requests) == 1


def test_a_server_that_stays_away_is_unavailable(connect, pixels):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        client = connect(f"127.0.0.1:{unused.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(errors.Unavailable):
            client.classify(pixels)
    assert 0.3 < time.monotonic() - start < 3


def test_a_server_that_comes_up_late_is_waited_for(connect, pixels):
    with serving(FakeService()) as address:
        pass
    client, port = connect(address), int(address.rpartition(":")[2])

    def serve_late():
        time.sleep(0.3)
        with serving(FakeService(), port):
            done.wait(10)

    done = threading.Event()
    thread = threading.Thread(target=serve_late)
    thread.start()
    try:
        assert len(client.classify(pixels)) == 1
    finally:
        done.set()
        thread.join()


def test_a_deadline_holds_over_all_attempts(client, service, pixels):
    service.failures = [errors.Unavailable("restarting")] * 100
    start = time.monotonic()
    with pytest.raises((errors.DeadlineExceeded, errors.Unavailable)):
        client.within(0.3).classify(pixels)
    assert time.monotonic() - start < 0.8


def test_within_leaves_the_client_as_it_was(client):
    assert client.within(1).timeout == 1
    assert client.timeout == 60


def delays_of(call, monkeypatch):
    """Those before it gives up on a server that stays away, each of them slept through."""
    clock, delays = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    attempts = RetryPolicy(call, None)

    def fail_for_ever():
        while True:
            delays.append(attempts.delay(errors.Unavailable("away")))
            clock[0] += delays[-1]

    with pytest.raises(errors.Unavailable):
        fail_for_ever()
    return delays


def test_delays_double_up_to_a_limit(monkeypatch):
    delays = delays_of(watch("operations/a"), monkeypatch)
    assert delays[0] <= 0.06
    assert 1.5 < max(delays) <= 2.4


@pytest.mark.parametrize(("call", "patience"), [(list_models(), 1.0), (watch("operations/a"), 60.0)])
def test_the_last_attempt_is_when_patience_ends(monkeypatch, call, patience):
    """A server may be away for as long as that, wherever the delays would fall."""
    assert sum(delays_of(call, monkeypatch)) == pytest.approx(patience)


def test_a_server_that_asks_for_more_than_patience_is_not_asked_earlier(monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    policy = RetryPolicy(list_models(), None, patience=1.0)
    with pytest.raises(errors.Unavailable):
        policy.delay(errors.Unavailable("away", retry_after=1.5))


FULL = errors.ResourceExhausted("the queue is full", retry_after=10.0)


def waits(monkeypatch, *arguments, **options):
    """The delays of a call that is told each time to come back in 10 s, until it gives up."""
    clock, delays = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    policy = RetryPolicy(*arguments, **options)

    def fail_for_ever():
        while True:
            delays.append(policy.delay(FULL))
            clock[0] += delays[-1]

    with pytest.raises(errors.ResourceExhausted):
        fail_for_ever()
    return delays


@pytest.mark.parametrize(
    ("timeout", "patience", "times"),
    [(60.0, None, 5), (35.0, None, 3), (5.0, None, 0), (None, None, 6), (60.0, 25.0, 2), (60.0, 0.0, 0)],
)
def test_a_full_queue_is_waited_for_within_the_deadline_or_the_clients_patience(
    monkeypatch, timeout, patience, times
):
    delays = waits(monkeypatch, list_models(), timeout, patience)
    assert len(delays) == times
    assert all(delay == 10 for delay in delays)


def test_a_submission_waits_for_a_full_queue(connect, address, service, pixels):
    service.failures = [errors.ResourceExhausted("full", retry_after=1.2)] * 2
    start = time.monotonic()
    assert connect(address).deepdream(pixels).metadata.state == "QUEUED"
    assert 2.4 <= time.monotonic() - start < 6


def test_patience_is_a_setting_of_the_client(connect, address, service, pixels, monkeypatch):
    for options, variable in (({"patience": 0}, "60"), ({}, "0")):
        monkeypatch.setenv("CONVLENS_PATIENCE", variable)
        service.failures = [errors.ResourceExhausted("full", retry_after=0.1)]
        with pytest.raises(errors.ResourceExhausted):
            connect(address, **options).classify(pixels)


@pytest.mark.parametrize(("value", "field"), [(-1, "patience"), (float("nan"), "patience")])
def test_patience_is_a_number_of_seconds(connect, address, monkeypatch, value, field):
    with pytest.raises(errors.InvalidArgument, match="at least 0") as caught:
        connect(address, patience=value)
    assert caught.value.field == field
    monkeypatch.setenv("CONVLENS_PATIENCE", "long")
    with pytest.raises(errors.InvalidArgument, match="CONVLENS_PATIENCE = 'long': must be a number"):
        connect(address)


def test_a_closed_client_says_so(connect, address, pixels):
    client = connect(address)
    job = client.deepdream(pixels)
    other = client.within(5)
    client.close()
    for call in (
        lambda: client.classify(pixels),
        job.wait,
        lambda: list(job.watch()),
        lambda: list(client.features([pixels], "a")),
        other.list_models,
    ):
        with pytest.raises(errors.FailedPrecondition, match="the client is closed") as caught:
            call()
        assert caught.value.reason == "CLIENT_CLOSED"


def test_a_reply_renews_patience_only_where_a_break_undoes_nothing(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    lasting, passing = RetryPolicy(watch("operations/a"), None), RetryPolicy(list_models(), None)
    for attempts in (lasting, passing):
        attempts.delay(errors.Unavailable("away"))
    clock[0] = 1000.0
    for attempts in (lasting, passing):
        attempts.progressed()
    assert lasting.delay(errors.Unavailable("away")) < 0.1
    with pytest.raises(errors.Unavailable):
        passing.delay(errors.Unavailable("away"))
