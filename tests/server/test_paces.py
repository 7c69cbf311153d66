"""What calls took, and what others are expected to take from it."""

from __future__ import annotations

import pytest

from convlens_server.serving.paces import Likes, Paces


def test_requests_that_look_alike_are_only_trusted_if_they_are_alike() -> None:
    likes = Likes()
    assert likes.of("a") is None
    for seconds in (1.0, 1.2, 2.0):
        likes.learn("a", seconds)
    assert likes.of("a") == pytest.approx(1.0, rel=0.1)
    likes.learn("a", 100.0)
    assert likes.of("a") is None
    for _ in range(300):
        likes.learn("a", 1.0)
    assert likes.of("a") == pytest.approx(1.0, rel=0.1)


def test_paces_are_learned_and_outliers_count_little() -> None:
    paces = Paces(1e-9)
    assert paces.of("a") == pytest.approx(1e-9)
    paces.learn("a", 1e6, 1.0)  # The first call builds what the others find: a thousand times as long.
    assert paces.of("a") == pytest.approx(4e-9)
    for _ in range(30):
        paces.learn("a", 1e6, 2e-3)
    assert paces.of("a") == pytest.approx(2e-9, rel=0.1)
    paces.learn("a", 1e6, 2.0)
    assert paces.of("a") < 2.5e-9
    paces.learn("b", 1e6, 1e-5)  # Faster than thought is believed at once.
    assert paces.of("b") == pytest.approx(1e-11)
    assert 1e-11 < (paces.of("c") or 0) < 2e-9
    assert Paces().of("a") is None
