"""What is kept, what is dropped, and what is built only once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from convlens_server.backends.cache import LruCache


@pytest.fixture
def dropped() -> list[str]:
    return []


@pytest.fixture
def cache(dropped: list[str]) -> LruCache[str, str]:
    return LruCache(10, dropped.append)


def get(cache: LruCache[str, str], key: str, weight: float = 1) -> str:
    return cache.get(key, lambda: (key.upper(), weight))


def test_a_value_is_built_once(cache: LruCache[str, str]) -> None:
    built = []
    for _ in range(3):
        assert cache.get("a", lambda: built.append(1) or ("A", 1)) == "A"
    assert built == [1]


def test_the_longest_unused_is_dropped_when_all_weigh_too_much(
    cache: LruCache[str, str], dropped: list[str]
) -> None:
    for key in "abc":
        get(cache, key, 3)
    get(cache, "a", 3)
    get(cache, "d", 4)
    assert dropped == ["B"]
    assert cache.weight == 10
    get(cache, "e", 10)
    assert dropped == ["B", "C", "A", "D"]


def test_what_alone_weighs_too_much_is_kept_until_the_next(
    cache: LruCache[str, str], dropped: list[str]
) -> None:
    get(cache, "a", 100)
    assert len(cache) == 1
    get(cache, "b")
    assert dropped == ["A"]


def test_discard_drops_by_key(cache: LruCache[str, str], dropped: list[str]) -> None:
    for key in "abc":
        get(cache, key)
    cache.discard(lambda key: key in "ac")
    assert dropped == ["A", "C"]
    assert len(cache) == 1


def test_threads_that_ask_at_once_share_one_build(cache: LruCache[str, str]) -> None:
    built, together = [], threading.Barrier(8)

    def build() -> tuple[str, float]:
        built.append(1)
        return "A", 1

    def ask(_: int) -> str:
        together.wait()
        return cache.get("a", build)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == ["A"] * 8
    assert built == [1]


def test_a_slow_build_does_not_hold_up_other_keys(cache: LruCache[str, str]) -> None:
    released = threading.Event()

    def slow() -> tuple[str, float]:
        assert released.wait(10)
        return "SLOW", 1

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(cache.get, "slow", slow)
        assert get(cache, "a") == "A"
        released.set()
        assert waiting.result(10) == "SLOW"


def test_a_build_that_fails_is_tried_again(cache: LruCache[str, str]) -> None:
    with pytest.raises(ZeroDivisionError):
        cache.get("a", lambda: (str(1 // 0), 1))
    assert get(cache, "a") == "A"
