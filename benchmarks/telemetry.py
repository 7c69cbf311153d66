"""What observing costs: CPU time that each middleware adds to a call. `python -m benchmarks.telemetry`."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, Final, cast

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from convlens_server.request.request_context import Middleware, RequestContext, ServicerContext, add
from convlens_server.serving.interceptors import OfCall, logged, within
from convlens_server.telemetry.metrics import Metrics
from convlens_server.telemetry.traces import traced
from convlens_workers.telemetry.logs import configure

METHOD: Final = "/convlens.v1.InspectionService/Classify"
CALLS: Final = 200
ROUNDS: Final = 50


class Nobody:
    """gRPC's context, of a client that sends a key and a trace."""

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ("authorization", "Bearer x"), ("traceparent", f"00-{'ab' * 16}-{'cd' * 8}-01")

    def set_trailing_metadata(self, metadata: Any) -> None:
        """Into the void."""


class Nowhere(SpanExporter):
    def export(self, spans: Any) -> SpanExportResult:
        return SpanExportResult.SUCCESS


async def microseconds(*middleware: Middleware) -> float:
    """CPU time of a call with four phases, the least of many rounds."""

    async def proceed(_: RequestContext) -> None:
        for phase in ("queue", "decode", "compute", "encode"):
            add(phase, 0.001)

    serve, least = within(middleware, proceed), float("inf")
    for _ in range(ROUNDS):
        began = time.thread_time()
        for _ in range(CALLS):
            await serve(RequestContext(METHOD, cast(ServicerContext, Nobody())))
        least = min(least, (time.thread_time() - began) / CALLS)
    return least * 1e6


async def main() -> None:
    bare = await microseconds()
    measured = {"access log": logged, "metrics": Metrics().middleware, "span, not recorded": traced}
    for name, middleware in measured.items():
        print(f"{name:22} {await microseconds(middleware) - bare:5.1f} us", file=sys.stdout)
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    trace.set_tracer_provider(provider)
    print(f"{'span and 4 phases':22} {await microseconds(traced) - bare:5.1f} us", file=sys.stdout)
    provider.shutdown()


if __name__ == "__main__":
    with Path("/dev/null").open("w") as void, redirect_stderr(void):
        configure("INFO", "json", OfCall())
        logging.getLogger("opentelemetry").setLevel(logging.ERROR)
        asyncio.run(main())
