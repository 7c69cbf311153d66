"""Load that does not wait for answers: calls are made at a rate, whatever becomes of them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import grpc
import numpy as np

from convlens import wire
from convlens.errors import from_rpc_error
from convlens.v1 import image_pb2, inspection_pb2
from convlens.v1.inspection_pb2_grpc import InspectionServiceStub

SIDE: Final = 96
BATCH: Final = 4
"""Images of a call, so that the server has more to do for it than the client."""


@dataclass
class Seen:
    """What became of calls.

    Attributes:
        seconds: that each accepted one took.
        refused: times to come back that refused ones were told.
        others: statuses that should not be.
    """

    seconds: list[float] = field(default_factory=list)
    refused: list[float | None] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    def latency(self, percent: float) -> float:
        """Seconds that so many per cent of the accepted calls took at most."""
        return float(np.percentile(self.seconds, percent))


def request() -> inspection_pb2.ClassifyRequest:
    pixels = np.random.default_rng(0).random((3, SIDE, SIDE), np.float32)
    image = image_pb2.Image(tensor=wire.to_tensor(pixels))
    return inspection_pb2.ClassifyRequest(images=[image] * BATCH)


async def ask(stub: InspectionServiceStub, seen: Seen, asked: inspection_pb2.ClassifyRequest) -> None:
    """One call."""
    began = time.perf_counter()
    try:
        await stub.Classify(asked, timeout=60)
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
            seen.refused.append(from_rpc_error(error).retry_after)
        else:
            seen.others[error.code().name] += 1
    else:
        seen.seconds.append(time.perf_counter() - began)


async def sustained(address: str, clients: int, seconds: float) -> float:
    """Calls a second that so many clients get answered who each wait for their answer."""
    seen, asked = Seen(), request()
    async with grpc.aio.insecure_channel(address) as channel:
        stub, until = InspectionServiceStub(channel), time.monotonic() + seconds

        async def client() -> None:
            while time.monotonic() < until:
                await ask(stub, seen, asked)

        began = time.monotonic()
        await asyncio.gather(*(client() for _ in range(clients)))
        took = time.monotonic() - began  # The last calls end after `seconds`.
    assert not seen.refused
    assert not seen.others
    return len(seen.seconds) / took


async def constant_rate(address: str, rate: float, seconds: float) -> Seen:
    """Calls at a constant rate."""
    seen, asked, calls = Seen(), request(), []
    async with grpc.aio.insecure_channel(address) as channel:
        stub, began = InspectionServiceStub(channel), time.monotonic()
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            calls.append(asyncio.create_task(ask(stub, seen, asked)))
        await asyncio.gather(*calls)
    return seen
