"""Jobs from the side of their clients: each is submitted, followed to its end, and read; then judged."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from convlens.errors import ConvLensError, Unavailable
from convlens.v1 import job_pb2
from convlens_client import AsyncClient

TERMINAL: Final = {"SUCCEEDED", "FAILED", "CANCELLED"}


@dataclass
class Story:
    """What its client saw of one job."""

    request: job_pb2.SubmitJobRequest
    to_be_cancelled: bool = False
    name: str = ""
    states: list[str] = field(default_factory=list)
    attempts: int = 0
    reason: str = ""
    sha256: str = ""


async def insist(call: Callable[[], Awaitable]) -> object:
    """What `call` gives, however long servers or Redis are away."""
    while True:
        try:
            return await call()
        except ConvLensError as error:
            if error.retry_after is None and not isinstance(error, Unavailable):
                raise
            await asyncio.sleep(error.retry_after or 1.0)


async def live(client: AsyncClient, story: Story, id_: uuid.UUID, left_alone: float = 0.0) -> None:
    """Submit a job under a request id, follow it to its end, read what it made.

    One that is to be cancelled is left alone for some seconds before that.
    """
    request = story.request
    operation = await insist(
        lambda: client.submit(request.deepdream, model="tiny", seed=request.seed, request_id=str(id_))
    )
    story.name = operation.name
    if story.to_be_cancelled:
        await asyncio.sleep(left_alone)
        await insist(operation.cancel)

    async def follow() -> None:
        async for metadata in operation.watch():
            story.states.append(metadata.state)
            story.attempts = metadata.attempt

    await insist(follow)
    await look(client, story)


async def look(client: AsyncClient, story: Story) -> None:
    """At the end of a job, once more."""
    operation = await insist(lambda: client.operation(story.name))
    story.states.append(operation.metadata.state)
    if operation.metadata.state == "SUCCEEDED":
        image = await insist(lambda: operation.artifact("image"))
        story.sha256 = hashlib.sha256(image.tobytes()).hexdigest()
    elif operation.state.error is not None:
        story.reason = operation.state.error.reason


def faults_of(story: Story, expected: str) -> list[str]:
    """What is wrong with how a job went; `expected` is the SHA-256 of an undisturbed run's picture."""
    ends = {state for state in story.states if state in TERMINAL}
    first = next((i for i, state in enumerate(story.states) if state in TERMINAL), -1)
    faults = [] if len(ends) == 1 else [f"ended as {sorted(ends) or 'nothing'}"]
    if any(state not in TERMINAL for state in story.states[first:]):
        faults.append("went on after its end")
    if ends == {"SUCCEEDED"} and story.sha256 != expected:
        faults.append("its bytes are not those of an undisturbed run")
    if ends == {"FAILED"} and story.reason != "WORKER_CRASHED":
        faults.append(f"failed: {story.reason}")
    if ends == {"CANCELLED"} and not story.to_be_cancelled:
        faults.append("cancelled by nobody")
    return faults
