"""google.longrunning.Operations over the job plane."""

from __future__ import annotations

from typing import Any, Final

from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf.empty_pb2 import Empty

from convlens.errors import InvalidArgument
from convlens_server.jobs.job_gateway import JobGateway
from convlens_workers.jobs import to_operation
from convlens_workers.jobs.record import parse_filter

PAGE: Final = 50
MAX_PAGE: Final = 1000


class OperationsServicer(operations_pb2_grpc.OperationsServicer):  # type: ignore[misc]
    """Get, List, Wait, Cancel and Delete of jobs."""

    def __init__(self, lane: JobGateway) -> None:
        self._lane = lane

    async def GetOperation(  # noqa: N802
        self, request: operations_pb2.GetOperationRequest, context: Any
    ) -> operations_pb2.Operation:
        """One job."""
        return to_operation(await self._lane.store.get(request.name))

    async def ListOperations(  # noqa: N802
        self, request: operations_pb2.ListOperationsRequest, context: Any
    ) -> operations_pb2.ListOperationsResponse:
        """A page of jobs, newest first, without previews; for `filter` see `parse_filter`."""
        if request.name not in ("", "operations"):
            raise InvalidArgument.of("name", request.name, '"operations" or empty')
        if request.page_size < 0:
            raise InvalidArgument.of("page_size", request.page_size, "at least 0")
        records, token = await self._lane.store.list(
            **parse_filter(request.filter)._asdict(),
            page_size=min(request.page_size or PAGE, MAX_PAGE),
            page_token=request.page_token,
        )
        operations = [to_operation(record, preview=False) for record in records]
        return operations_pb2.ListOperationsResponse(operations=operations, next_page_token=token)

    async def WaitOperation(  # noqa: N802
        self, request: operations_pb2.WaitOperationRequest, context: Any
    ) -> operations_pb2.Operation:
        """The job when it has ended, or as it is after the timeout, if there is one."""
        given = request.timeout  # Of any length: no timedelta holds the longest.
        timeout = given.seconds + given.nanos / 1e9 if request.HasField("timeout") else None
        with self._lane.room():
            waiting = self._lane.store.wait(request.name, timeout)
            return to_operation(await self._lane.unless_stopping(waiting))

    async def CancelOperation(  # noqa: N802
        self, request: operations_pb2.CancelOperationRequest, context: Any
    ) -> Empty:
        """Ask a job to stop; it may still end otherwise."""
        await self._lane.store.cancel(request.name)
        return Empty()

    async def DeleteOperation(  # noqa: N802
        self, request: operations_pb2.DeleteOperationRequest, context: Any
    ) -> Empty:
        """Remove an ended job with its artifacts."""
        await self._lane.store.delete(request.name)
        return Empty()
