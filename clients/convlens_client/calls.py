"""Conversations with the server, free of I/O: both clients run them, and neither knows more than `Rpc`.

A call says what to ask next and takes the replies. A transport (`client.py`, `aio.py`) asks until `complete`;
when a connection breaks it asks again, and the call decides what that means: start over, or go on from the
byte or event where the stream broke.
"""

# ruff: noqa: D102 (`Rpc` describes the methods of all)

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from threading import Lock
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from convlens import wire
from convlens.errors import TOO_LARGE, ConvLensError, Unavailable
from convlens.v1 import job_pb2, job_pb2_grpc
from convlens_client.from_proto import from_proto, snapshot
from convlens_client.results import Array, JobMetadata, Snapshot

T = TypeVar("T")


class Method(NamedTuple):
    """A method of a generated stub."""

    stub: type[Any]
    name: str


class Rpc(ABC, Generic[T]):
    """One conversation; `T` is what it comes to."""

    patience: ClassVar[float] = 3.0
    """Seconds that the server may be away, where the client has no patience of its own."""
    lasting: ClassVar[bool] = False
    """True for calls that go on where they broke; they last as long as a job and have no deadline."""

    step: int = 0
    """Which of several requests is asked; each has the time that the client gives a call."""
    first_image: int = 0
    """Place of the first of the request's images among those of the call."""

    def __init__(self, method: Method) -> None:
        self.method = method
        self.complete = False

    @abstractmethod
    def request(self) -> Any:
        """What to ask, at the start and after each break: a message, or messages where they are streamed."""

    @abstractmethod
    def add(self, reply: Any) -> Any:
        """Take one reply; returns what a follower of the call is shown."""

    def end(self) -> None:
        """The replies to one request have ended well. Raises Unavailable when they ended too early."""
        self.complete = True

    def explained(self, error: ConvLensError) -> ConvLensError:
        """The error as the caller knows the images: by their places in the call."""
        if self.first_image and error.field:
            field = re.sub(
                r"^images\[(\d+)\]", lambda match: f"images[{int(match[1]) + self.first_image}]", error.field
            )
            error.args = (error.message.replace(error.field, field),)
            error.message, error.field = error.args[0], field
        return error

    @abstractmethod
    def result(self) -> T:
        """What it came to, once complete."""


class Steps(Rpc[T]):
    """Several conversations, one after the other, that come to one result.

    Args:
        steps: yields each conversation, is sent what it came to, and returns the result.
    """

    def __init__(self, steps: Generator[Rpc[Any], Any, T]) -> None:
        self._steps, self._done = steps, 0
        self._call = next(steps)
        self._result: Any = None
        self.complete = False

    @property
    def method(self) -> Method:  # type: ignore[override]
        return self._call.method

    @property
    def step(self) -> int:  # type: ignore[override]
        return self._done + self._call.step

    @property
    def patience(self) -> float:  # type: ignore[override]
        return self._call.patience

    @property
    def lasting(self) -> bool:  # type: ignore[override]
        return self._call.lasting

    def request(self) -> Any:
        return self._call.request()

    def add(self, reply: Any) -> Any:
        return self._call.add(reply)

    def end(self) -> None:
        self._call.end()
        if not self._call.complete:
            return
        self._done += self._call.step + 1
        try:
            self._call = self._steps.send(self._call.result())
        except StopIteration as last:
            self._result, self.complete = last.value, True

    def explained(self, error: ConvLensError) -> ConvLensError:
        return self._call.explained(error)

    def result(self) -> T:
        value: T = self._result
        return value


class Asked(Rpc[T]):
    """One request; `read` makes something of what is replied."""

    def __init__(self, method: Method, request: Any, read: Callable[..., T]) -> None:
        super().__init__(method)
        self._request, self._read = request, read

    def request(self) -> Message:
        message: Message = self._request
        return message

    def explained(self, error: ConvLensError) -> ConvLensError:
        if error.reason == TOO_LARGE and not error.field:
            error.field = _largest_field(self._request)
            error.message = f"{error.field}: {error.message}"
            error.args = (error.message,)
        return super().explained(error)


def _largest_field(message: Message) -> str:
    """The path of the field that takes most of a message, as "images[3].encoded"."""
    path, value = "", message
    while isinstance(value, Message) and value.ListFields():
        sizes = {}
        for field, content in value.ListFields():
            items = dict(enumerate(content)) if field.is_repeated else {None: content}
            for place, item in items.items():
                name = field.name if place is None else f"{field.name}[{place}]"
                sizes[f"{path}.{name}".lstrip(".")] = (_size(item), item)
        path, (_, value) = max(sizes.items(), key=lambda found: found[1][0])
    return path


def _size(value: Any) -> int:
    return value.ByteSize() if isinstance(value, Message) else len(value) if hasattr(value, "__len__") else 0


class Unary(Asked[T]):
    """One request, one reply."""

    def add(self, reply: Any) -> Any:
        self._reply = reply

    def result(self) -> T:
        return self._read(self._reply)


class Tensors(Asked[T]):
    """One request, a stream of tensors, with a `result` where the method has one; `read` takes both."""

    def request(self) -> Message:
        self._result: Any = None
        self._assembler = wire.Assembler()
        return super().request()

    def add(self, reply: Any) -> Any:
        if reply.HasField("tensor"):
            self._assembler.add(reply.tensor)
        else:
            self._result = reply.result

    def result(self) -> T:
        return self._read(self._result, self._assembler.finish())


class Messages(Asked[T]):
    """One request, a stream of messages, of which followers see what `shown` makes; `read` sums these up."""

    def __init__(
        self, method: Method, request: Message, shown: Callable[[Any], Any], read: Callable[[list[Any]], T]
    ) -> None:
        super().__init__(method, request, read)
        self._shown = shown

    def request(self) -> Message:
        self._items: list[Any] = []
        return super().request()

    def add(self, reply: Any) -> Any:
        self._items.append(self._shown(reply))
        return self._items[-1]

    def result(self) -> T:
        return self._read(self._items)


class Exchange(Rpc[tuple[T, ...]]):
    """Many requests, one reply to each, in order; after a break it goes on behind the last reply.

    Requests are made as they are sent, so that any number of them takes little memory.

    Args:
        first: request that opens each stream and is not replied to.
        items: the requests; consumed in a thread of gRPC. What it raises, the call raises.
        read: what a reply says.
    """

    patience = 60.0
    lasting = True

    def __init__(
        self, method: Method, first: Message, items: Iterable[Message], read: Callable[[Any], T]
    ) -> None:
        super().__init__(method)
        self._first, self._items, self._read = first, iter(items), read
        self._lock = Lock()
        self._unanswered: deque[Message] = deque()
        self._answers: list[T] = []
        self._streams = 0
        self._failure: Exception | None = None

    def request(self) -> Iterator[Message]:
        with self._lock:
            self._streams += 1
            return self._requests(self._streams, len(self._answers))

    def add(self, reply: Any) -> T:
        answer = self._read(reply)
        with self._lock:
            self._unanswered.popleft()
            self._answers.append(answer)
        return answer

    def end(self) -> None:
        if self._failure is not None:
            raise self._failure
        super().end()

    def result(self) -> tuple[T, ...]:
        return tuple(self._answers)

    def _requests(self, stream: int, position: int) -> Iterator[Message]:
        yield self._first
        while (item := self._item(stream, position)) is not None:
            yield item
            position += 1

    def _item(self, stream: int, position: int) -> Message | None:
        """The request at a position, or None at the end, and where another stream has replaced this one."""
        with self._lock:
            if stream != self._streams:
                return None
            ahead = position - len(self._answers)
            if ahead == len(self._unanswered):
                try:
                    self._unanswered.append(next(self._items))
                except StopIteration:
                    return None
                except Exception as failure:
                    self._failure = failure
                    return None
            return self._unanswered[ahead]


class Pages(Asked[tuple[T, ...]]):
    """A list that comes in pages; `field` holds the items of a page."""

    def __init__(self, method: Method, request: Any, field: str, read: Callable[[Any], T]) -> None:
        super().__init__(method, request, lambda items: tuple(map(read, items)))
        self._field = field
        self._items: list[Any] = []

    def add(self, reply: Any) -> Any:
        self._items += getattr(reply, self._field)
        self._request.page_token = reply.next_page_token

    def end(self) -> None:
        self.complete = not self._request.page_token

    def result(self) -> tuple[T, ...]:
        return self._read(self._items)


class Wait(Rpc[Snapshot]):
    """Waits until an operation is done, in turns that proxies let pass."""

    patience = 60.0
    lasting = True
    TURN_SECONDS: ClassVar[int] = 30

    def __init__(self, name: str) -> None:
        super().__init__(Method(operations_pb2_grpc.OperationsStub, "WaitOperation"))
        self._name = name
        self._state: Snapshot

    def request(self) -> Message:
        turn = Duration(seconds=self.TURN_SECONDS)
        request: Message = operations_pb2.WaitOperationRequest(name=self._name, timeout=turn)
        return request

    def add(self, reply: Any) -> Any:
        self._state = snapshot(reply)

    def end(self) -> None:
        self.complete = self._state.done

    def result(self) -> Snapshot:
        return self._state


class Watch(Rpc[JobMetadata]):
    """Follows the events of a job; after a break it goes on behind the last event that came."""

    patience = 60.0
    lasting = True

    def __init__(self, name: str) -> None:
        super().__init__(Method(job_pb2_grpc.JobServiceStub, "WatchJob"))
        self._name, self._after = name, ""
        self._metadata: JobMetadata | None = None

    def request(self) -> Message:
        return job_pb2.WatchJobRequest(name=self._name, after_event_id=self._after)

    def add(self, reply: job_pb2.WatchJobResponse) -> JobMetadata:
        self._after = reply.event_id
        self._metadata = from_proto(reply.metadata)
        return self._metadata

    def end(self) -> None:
        self.complete = self._metadata is not None and self._metadata.final
        if not self.complete:
            raise Unavailable(f"the events of {self._name} ended before the job")

    def result(self) -> JobMetadata:
        assert self._metadata is not None
        return self._metadata


class ReadArtifact(Rpc[Array]):
    """Reads one stored tensor; after a break it goes on at the next byte, and the digest covers the whole."""

    patience = 60.0
    lasting = True

    def __init__(self, name: str, artifact: str) -> None:
        super().__init__(Method(job_pb2_grpc.JobServiceStub, "ReadArtifact"))
        self._name, self._artifact = name, artifact
        self._assembler = wire.Assembler()

    def request(self) -> Message:
        return job_pb2.ReadArtifactRequest(
            name=self._name, artifact=self._artifact, read_offset=self._assembler.received
        )

    def add(self, reply: job_pb2.ReadArtifactResponse) -> None:
        self._assembler.add(reply.tensor)

    def result(self) -> Array:
        (array,) = self._assembler.finish().values()
        return array
