"""The load of the serving benchmark: callers of one contestant for some seconds, then of the next.

Runs in the peers' environment with a plan, JSON, on standard input; prints {level: {contestant: [blocks]}}.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from serving_session import open_session
from tritonclient.grpc import InferenceServerClient, InferInput

Call = Callable[[], Any]
"""One inference, as one caller makes it."""
Contestant = Callable[[], Call]
"""Gives a call for each caller."""


def in_process(path: str, threads: int, image: np.ndarray) -> Contestant:
    """The session itself, called from the callers' own threads."""
    session = open_session(path, threads)
    name = session.get_inputs()[0].name
    return lambda: lambda: session.run(None, {name: image})


def served(address: str, model: str, image: np.ndarray) -> Contestant:
    """A server that speaks the Open Inference Protocol; each caller has a client of its own."""

    def caller() -> Call:
        client = InferenceServerClient(address)
        item = InferInput("image", list(image.shape), "FP32")
        item.set_data_from_numpy(image)
        return lambda: client.infer(model, [item]).as_numpy("logits")

    return caller


def block(calls: Sequence[Call], seconds: float, lead: float) -> dict[str, Any]:
    """Calls in a second, and the milliseconds that each took, once `lead` seconds have passed."""
    begin = time.perf_counter() + lead
    end = begin + seconds
    spans: list[list[tuple[float, float]]] = [[] for _ in calls]

    def work(call: Call, mine: list[tuple[float, float]]) -> None:
        while (started := time.perf_counter()) < end:
            call()
            mine.append((started, time.perf_counter()))

    threads = [threading.Thread(target=work, args=pair) for pair in zip(calls, spans, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A call that is under way at an edge counts by the part of it that lies within.
    whole = np.array([span for mine in spans for span in mine])
    inside = np.minimum(whole[:, 1], end) - np.maximum(whole[:, 0], begin)
    took = whole[:, 1] - whole[:, 0]
    throughput = np.sum(np.clip(inside, 0, None) / took) / seconds
    p50, p99 = np.percentile(took[inside > 0] * 1e3, [50, 99])
    return {"throughput": throughput, "p50": p50, "p99": p99}


def agree(contestants: dict[str, Contestant], image: np.ndarray) -> None:
    """Raises AssertionError when they do not compute the same."""
    found = {name: contestant()() for name, contestant in contestants.items()}
    logits = {name: value[-1] if isinstance(value, list) else value for name, value in found.items()}
    first, wanted = next(iter(logits.items()))
    for name, value in logits.items():
        if not np.allclose(value, wanted, rtol=1e-3, atol=1e-4):
            raise AssertionError(f"{name} and {first} differ by {np.abs(value - wanted).max():g}")


def main() -> None:
    """Blocks of all contestants in turn; each round begins with another one."""
    plan = json.load(sys.stdin)
    side = plan["side"]
    image = np.random.default_rng(0).random((1, 3, side, side), np.float32)
    contestants = {f"in process, {n}": in_process(plan["graph"], n, image) for n in plan["threads"]}
    contestants |= {name: served(address, plan["model"], image) for name, address in plan["servers"].items()}
    agree(contestants, image)
    names, results = list(contestants), {}
    for level in plan["levels"]:
        calls = {name: [contestant() for _ in range(level)] for name, contestant in contestants.items()}
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for turn in range(plan["rounds"]):
            start = turn % len(names)
            for name in names[start:] + names[:start]:
                found[name].append(block(calls[name], plan["seconds"], plan["lead"]))
                print(level, name, found[name][-1], file=sys.stderr, flush=True)
        results[level] = found
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
