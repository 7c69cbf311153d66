"""A map over a stream that works on several items at once, with results in order and bounded memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeVar

T = TypeVar("T")
R = TypeVar("R")

END: Final[Any] = object()


async def ordered_map(
    work: Callable[[T], Awaitable[R]], items: AsyncIterator[T], ahead: int
) -> AsyncGenerator[R]:
    """`work(item)` for each item, in the order of the items, at most `ahead` of them under way.

    No more than `ahead` + 1 items are taken beyond the last result that was taken: who reads the results
    slowly holds the items back. An answer never waits for an item behind it.
    """
    under_way: deque[asyncio.Future[R]] = deque()
    coming: asyncio.Future[Any] | None = asyncio.ensure_future(_next(items))
    try:
        while coming or under_way:
            room = coming is not None and len(under_way) < ahead
            waiting = [*([coming] if room and coming else []), *list(under_way)[:1]]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if room and coming and coming.done():
                item = coming.result()
                coming = None
                if item is not END:
                    under_way.append(asyncio.ensure_future(work(item)))
                    coming = asyncio.ensure_future(_next(items))
            while under_way and under_way[0].done():
                yield under_way.popleft().result()
    finally:
        for future in (*under_way, *([coming] if coming else [])):
            future.cancel()


async def _next(items: AsyncIterator[T]) -> T:
    item: T = await anext(items, END)
    return item
