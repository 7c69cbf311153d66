"""What a process tells Prometheus."""

from __future__ import annotations

import time
import urllib.request


def scrape(address: str) -> dict[str, float]:
    """Value by sample, as "name{label=...}"."""
    lines = text(address).splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def settled(address: str) -> dict[str, float]:
    """The same, once all calls that have begun are counted as ended, which follows the reply."""
    until = time.monotonic() + 5
    while True:
        metrics = scrape(address)
        begun, ended = (
            sum(value for name, value in metrics.items() if name.startswith(f"grpc_server_{what}_total"))
            for what in ("started", "handled")
        )
        if begun == ended:
            return metrics
        assert time.monotonic() < until, f"{begun} calls have begun and {ended} have ended"
        time.sleep(0.01)


def families(address: str) -> set[str]:
    """Names that a query may use: of samples, also those that a metric will have once it has any."""
    kinds = (line.split()[2:4] for line in text(address).splitlines() if line.startswith("# TYPE"))
    endings = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}
    return {name + ending for name, kind in kinds for ending in endings.get(kind, ("",))}


def text(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as reply:
        body: str = reply.read().decode()
    return body
