"""What `Client` and `AsyncClient` share, and their operations: all that does not wait for the server."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from convlens.errors import FailedPrecondition
from convlens_client.calls import Rpc
from convlens_client.channel import connect, credentials, metadata, patience_setting, server_address
from convlens_client.results import JobMetadata, Snapshot
from convlens_client.retry import RetryPolicy
from convlens_client.tracing import trace_headers

C = TypeVar("C")
M = TypeVar("M")


class Connection:
    """A channel to a server, the timeout of calls, and who calls."""

    _library: ClassVar[Any]
    """`grpc` or `grpc.aio`."""

    def __init__(
        self,
        address: str | None = None,
        *,
        timeout: float | None = 60.0,
        tls: bool | str | Path | None = None,
        token: str | None = None,
        certificate: str | Path | None = None,
        key: str | Path | None = None,
        patience: float | None = None,
    ) -> None:
        self.address = server_address(address)
        self.timeout = timeout
        self.patience = patience_setting(patience)
        self._metadata = metadata(token)
        self._channel = connect(self._library, self.address, credentials(tls, certificate, key))

    def within(self, timeout: float | None) -> Self:
        """The same connection with another timeout in seconds: `client.within(5).classify(...)`."""
        other = copy.copy(self)
        other.timeout = timeout
        return other

    def _stub(self, kind: type[Any]) -> Any:
        """The stub of a service. Raises FailedPrecondition once the client is closed."""
        if self._channel.closed:
            raise FailedPrecondition("the client is closed", reason="CLIENT_CLOSED")
        return kind(self._channel)

    def _policy(self, call: Rpc[Any], timeout: float | None) -> RetryPolicy:
        """The attempts at a call; those that last have no deadline but the one they are given."""
        return RetryPolicy(call, timeout if call.lasting else timeout or self.timeout, self.patience)

    def _headers(self) -> tuple[tuple[str, str], ...]:
        return (*self._metadata, *trace_headers())


class KnownJob(Generic[C]):
    """A job as the server last told of it, and the client that asks about it."""

    def __init__(self, client: C, state: Snapshot) -> None:
        self._client = client
        self._state = state

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.metadata.state}>"

    @property
    def name(self) -> str:
        """ "operations/<id>"."""
        return self._state.name

    @property
    def metadata(self) -> JobMetadata:
        """The job as it was when the server last told of it; `done()` asks again."""
        return self._state.metadata

    @property
    def state(self) -> Snapshot:
        """Metadata, error and artifact headers as the server last told them."""
        return self._state

    @property
    def report(self) -> Any:
        """What a finished job says beside its artifacts: one of `convlens_client.reports`, or None."""
        return self._state.report


def as_method(method: M, build: Callable[..., Rpc[Any]], returns: str = "") -> M:
    """`method` with the signature of `build` behind `self`, for help(); it returns what the call comes to."""
    signature = inspect.signature(build)
    this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    described: Any = method
    described.__signature__ = signature.replace(
        parameters=[this, *signature.parameters.values()],
        return_annotation=returns or signature.return_annotation.removeprefix("Rpc[").removesuffix("]"),
    )
    return method
