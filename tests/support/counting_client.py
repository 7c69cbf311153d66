"""A client that keeps account of its calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import grpc

from convlens.errors import Unavailable
from convlens_client import AsyncClient
from convlens_client.calls import Rpc
from convlens_client.retry import RetryPolicy


@dataclass
class Account:
    """What became of calls.

    Attributes:
        made: calls that callers made, however many attempts each took.
        answered: those whose whole answer came.
        refused: attempts that ended in an error, by method; streams that broke among them.
        retried: attempts after one that was refused.
        errors: what callers were told instead of an answer.
    """

    made: int = 0
    answered: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    retried: int = 0
    errors: list[str] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Calls without an answer."""
        return self.made - self.answered

    def __str__(self) -> str:
        return (
            f"{self.made} calls made, {self.refused.total()} attempts refused {dict(self.refused)}, "
            f"{self.retried} retried; {self.lost} calls lost"
        )


class CountingClient(AsyncClient):
    """`AsyncClient` as it is, with an account."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.account = Account()
        self._refused: set[Rpc[Any]] = set()
        """Those whose last attempt was."""

    async def follow(self, call: Rpc[Any], timeout: float | None = None) -> AsyncGenerator[Any]:
        self.account.made += 1
        try:
            async with aclosing(super().follow(call, timeout)) as replies:
                async for reply in replies:
                    yield reply
        except Exception as error:
            self.account.errors.append(f"{call.method.name}: {error!r}")
            raise
        finally:
            self._refused.discard(call)
        self.account.answered += 1

    async def _ask(self, call: Rpc[Any], attempts: RetryPolicy) -> AsyncGenerator[Any]:
        self.account.retried += call in self._refused
        self._refused.discard(call)
        try:
            async with aclosing(super()._ask(call, attempts)) as replies:
                async for reply in replies:
                    yield reply
        except (grpc.RpcError, Unavailable):
            self._refused.add(call)
            self.account.refused[call.method.name] += 1
            raise
