"""The errors of ConvLens, the same tree on both ends of a call.

    ConvLensError
    ├── InvalidArgument       a field of the request is wrong; names field, value and what is allowed
    ├── OutOfRange            an offset or event id lies beyond the data
    ├── NotFound              no such model, layer file, operation or artifact
    ├── AlreadyExists         a request id was used before with another payload
    ├── FailedPrecondition    right request, wrong moment: the job has not finished
    ├── ResourceExhausted     a queue or a limit is full; come back after `retry_after` seconds
    ├── Unavailable           Redis or the server is away; come back after `retry_after` seconds
    ├── DeadlineExceeded      the caller's deadline passed
    ├── Cancelled             the caller, or the owner of a job, gave up
    ├── DataLoss              stored bytes do not match their digest
    ├── Unauthenticated       no valid credentials
    ├── PermissionDenied      the credentials do not allow this
    ├── Unimplemented         the server does not know the method
    └── Internal              a fault of ours

`to_status` turns an error into a `google.rpc.Status` with ErrorInfo and, where they apply, BadRequest and
RetryInfo; `from_status` and `from_rpc_error` turn it back.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

DOMAIN = "convlens"
UNTAKEN = "CANCELLED"
"""What gRPC says of a CANCELLED that nobody asked for: its server ended before it took the call, see
https://github.com/grpc/grpc/issues/41785. Who cancels a call of his own is told so in other words."""
OVER = re.compile(
    r"(CLIENT: Sent|CLIENT: Received|SERVER: Received) message larger than max \((\d+) vs\. (\d+)\)"
)
"""What gRPC says of a message beyond a limit: who found it, its bytes, and the limit."""
TOO_LARGE = "MESSAGE_SIZE"
"""The reason of an error about such a message."""
REMEDIES = {
    "CLIENT: Sent": "a request may have {most:.4g} MiB; send fewer or smaller images at a time",
    "SERVER: Received": "the server takes {most:.4g} MiB (its CONVLENS_MAX_REQUEST_BYTES); send fewer or"
    " smaller images at a time",
    "CLIENT: Received": "a reply may have {most:.4g} MiB; ask for less at a time",
}
"""What to do about it."""
LONGEST = 1000
"""Bytes of a message: a client takes 8 KiB of trailers, where a message stands up to three times, encoded."""


class ConvLensError(Exception):
    """Base of all errors; `reason` is an UPPER_SNAKE_CASE word for programs, by default the code's name."""

    code: ClassVar[int] = code_pb2.UNKNOWN

    def __init__(
        self, message: str, *, field: str = "", reason: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.reason = reason or code_pb2.Code.Name(self.code)
        self.retry_after = retry_after


class InvalidArgument(ConvLensError):
    """A field of the request is wrong."""

    code = code_pb2.INVALID_ARGUMENT

    @classmethod
    def of(cls, field: str, value: object, allowed: str) -> InvalidArgument:
        """Error that names the field, the value (shortened to 80 characters) and what is allowed."""
        return cls(f"{field} = {shortened(value)}: must be {allowed}", field=field)


def shortened(value: object) -> str:
    """A value as messages show it, in at most 80 characters: its begin and, as of paths, its end."""
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:38]}...{shown[-39:]}"


class OutOfRange(InvalidArgument):
    """An offset or event id lies beyond the data."""

    code = code_pb2.OUT_OF_RANGE


class NotFound(ConvLensError):
    """No such resource."""

    code = code_pb2.NOT_FOUND


class AlreadyExists(ConvLensError):
    """The name or request id is taken."""

    code = code_pb2.ALREADY_EXISTS


class FailedPrecondition(ConvLensError):
    """The system is not in the state that the request needs."""

    code = code_pb2.FAILED_PRECONDITION


class ResourceExhausted(ConvLensError):
    """A queue or a limit is full."""

    code = code_pb2.RESOURCE_EXHAUSTED


class Unavailable(ConvLensError):
    """A part that the call needs is away."""

    code = code_pb2.UNAVAILABLE


class DeadlineExceeded(ConvLensError):
    """The caller's deadline passed."""

    code = code_pb2.DEADLINE_EXCEEDED


class Cancelled(ConvLensError):
    """The caller, or the owner of a job, gave up."""

    code = code_pb2.CANCELLED


class DataLoss(ConvLensError):
    """Stored bytes do not match their digest."""

    code = code_pb2.DATA_LOSS


class Unauthenticated(ConvLensError):
    """No valid credentials."""

    code = code_pb2.UNAUTHENTICATED


class PermissionDenied(ConvLensError):
    """The credentials do not allow this."""

    code = code_pb2.PERMISSION_DENIED


class Unimplemented(ConvLensError):
    """The server does not know the method."""

    code = code_pb2.UNIMPLEMENTED


class Internal(ConvLensError):
    """A fault of ours."""

    code = code_pb2.INTERNAL


BY_CODE = {kind.code: kind for kind in (*ConvLensError.__subclasses__(), OutOfRange)}


def to_status(error: ConvLensError) -> status_pb2.Status:
    """The error as a `google.rpc.Status` with its details; a message that is too long is cut."""
    message = _cut(error.message)
    status = status_pb2.Status(code=error.code, message=message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN))
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=_cut(error.field), description=message)
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after * 1e9))
        status.details.add().Pack(retry)
    return status


def _cut(text: str) -> str:
    encoded = text.encode(errors="replace")
    if len(encoded) <= LONGEST:
        return encoded.decode()
    return encoded[: LONGEST - 3].decode(errors="ignore") + "..."


def from_status(status: status_pb2.Status) -> ConvLensError:
    """The error that `to_status` was given."""
    details: dict[str, Any] = {}
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    for packed in status.details:
        if packed.Unpack(info):
            details["reason"] = info.reason
        elif packed.Unpack(bad_request) and bad_request.field_violations:
            details["field"] = bad_request.field_violations[0].field
        elif packed.Unpack(retry):
            details["retry_after"] = retry.retry_delay.ToNanoseconds() / 1e9
    return BY_CODE.get(status.code, ConvLensError)(status.message, **details)


def from_rpc_error(error: grpc.RpcError) -> ConvLensError:
    """The error that the server raised, from what gRPC raised in the client."""
    return from_status(_details(error) or _bare(error))


def _details(error: grpc.RpcError) -> status_pb2.Status | None:
    try:
        return rpc_status.from_call(error)
    except (ValueError, DecodeError):  # A proxy on the way replaced the status, but left the details.
        return None


def _bare(error: grpc.RpcError) -> status_pb2.Status:
    code, details = error.code(), error.details()
    if over := OVER.search(details or ""):
        size, most = (int(number) / (1 << 20) for number in over.groups()[1:])
        text = f"a message of {size:.1f} MiB: {REMEDIES[over[1]].format(most=most)}"
        return to_status(ResourceExhausted(text, reason=TOO_LARGE))
    if (code, details) == (grpc.StatusCode.CANCELLED, UNTAKEN):
        code, details = grpc.StatusCode.UNAVAILABLE, "the server went before it took the call"
    return status_pb2.Status(code=code.value[0], message=details or code.name)
