"""google.longrunning.Operations over the job store."""

# ruff: noqa: N802 (the methods are named as in the proto)
from __future__ import annotations

from typing import Any, Final

from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf.empty_pb2 import Empty

from convlens.errors import InvalidArgument
from convlens_server.servicers.base import Gateways
from convlens_workers.jobs import to_operation
from convlens_workers.jobs.record import parse_filter

PAGE: Final = 50
"""The number of jobs on a page where the request does not say."""
MAX_PAGE: Final = 1000


class OperationsServicer(operations_pb2_grpc.OperationsServicer):  # type: ignore[misc]
    """Shows, awaits, cancels and deletes jobs."""

    def __init__(self, gateways: Gateways) -> None:
        self._jobs = gateways.jobs

    async def GetOperation(
        self, request: operations_pb2.GetOperationRequest, context: Any
    ) -> operations_pb2.Operation:
        """Answer with one job of the caller as it stands now, by its name "operations/<id>"."""
        return to_operation(await self._jobs.store.get(request.name))

    async def ListOperations(
        self, request: operations_pb2.ListOperationsRequest, context: Any
    ) -> operations_pb2.ListOperationsResponse:
        """List a page of jobs, newest first, without previews; for `filter` see `parse_filter`."""
        if request.name not in ("", "operations"):
            raise InvalidArgument.of("name", request.name, '"operations" or empty')
        if request.page_size < 0:
            raise InvalidArgument.of("page_size", request.page_size, "at least 0")
        records, token = await self._jobs.store.list(
            wanted=parse_filter(request.filter),
            page_size=min(request.page_size or PAGE, MAX_PAGE),
            page_token=request.page_token,
        )
        operations = [to_operation(record, preview=False) for record in records]
        return operations_pb2.ListOperationsResponse(operations=operations, next_page_token=token)

    async def WaitOperation(
        self, request: operations_pb2.WaitOperationRequest, context: Any
    ) -> operations_pb2.Operation:
        """Show a job when it has ended, or as it is after the timeout, if there is one."""
        given = request.timeout  # Of any length: no timedelta holds the longest.
        timeout = given.seconds + given.nanos / 1e9 if request.HasField("timeout") else None
        with self._jobs.room():
            waiting = self._jobs.store.wait(request.name, timeout)
            return to_operation(await self._jobs.unless_stopping(waiting))

    async def CancelOperation(self, request: operations_pb2.CancelOperationRequest, context: Any) -> Empty:
        """Ask a job to stop; it may still end otherwise."""
        await self._jobs.store.cancel(request.name)
        return Empty()

    async def DeleteOperation(self, request: operations_pb2.DeleteOperationRequest, context: Any) -> Empty:
        """Remove an ended job with its artifacts."""
        await self._jobs.store.delete(request.name)
        return Empty()
