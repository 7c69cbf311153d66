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
    with pytest.raises(errors.Unavailable):
        RetryPolicy(list_models(), None).delay(errors.Unavailable("away", retry_after=1.5))


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
