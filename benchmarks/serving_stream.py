"""A large tensor from the server, against bare gRPC that moves the same bytes.

As a program this is the bare server: it sends messages that it has made before.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc
import numpy as np

from benchmarks.race import Row, table
from convlens import wire
from convlens.v1 import image_pb2, inspection_pb2, inspection_pb2_grpc, model_pb2
from convlens_client.channel import OPTIONS, TensorChannel
from convlens_models.repository import StoredModel
from convlens_server.serving.malloc import keep_freed_memory

METHOD: Final = "/bare.Stream/Get"
LAYER, IMAGES = "features.0", 11
ROUNDS, WARMUP = 40, 3

TEXT: Final = """### A tensor of 50 MB

GetActivations with the checksum of each piece, from the first message to the last, into a buffer allocated
once. The bare server is grpc.aio as well; it sends pieces of the same size as they lie in its memory, and the
client copies them into such a buffer."""


def run(address: str, stored: StoredModel) -> str:
    """The section of the results."""
    keep_freed_memory()
    tensor_bytes = IMAGES * 4 * int(np.prod(stored.manifest.layer(LAYER).shape))
    with (
        bare_server(tensor_bytes) as bare,
        grpc.insecure_channel(address, OPTIONS) as ours,
        grpc.insecure_channel(bare, OPTIONS) as theirs,
    ):
        contestants = activations(ours, stored), pieces(theirs, tensor_bytes)
        seconds = np.array([[call() for call in contestants] for _ in range(WARMUP + ROUNDS)])[WARMUP:].T
    row = Row.of("ConvLens / bare gRPC", *seconds, "at most 1.1")
    return f"{TEXT}\n\n{table([row])}"


def activations(channel: grpc.Channel, stored: StoredModel) -> Callable[[], float]:
    """Gets the values of a layer; the seconds that the stream took once they were computed."""
    pixels = np.zeros((stored.manifest.input_size,) * 2, np.uint8)
    image = image_pb2.Image(encoded=wire.encode_image(pixels))
    request = inspection_pb2.GetActivationsRequest(
        model=model_pb2.ModelRef(name=stored.manifest.name), images=[image] * IMAGES, layers=[LAYER]
    )
    get = inspection_pb2_grpc.InspectionServiceStub(TensorChannel(channel)).GetActivations

    def call() -> float:
        assembler = wire.Assembler()
        replies = get(request)
        first, began = next(replies), time.perf_counter()
        assembler.add(first.tensor)
        for reply in replies:
            assembler.add(reply.tensor)
        assembler.finish()
        return time.perf_counter() - began

    return call


def pieces(channel: grpc.Channel, size: int) -> Callable[[], float]:
    """Gets as many bytes from the bare server; the seconds since its first message."""
    get = channel.unary_stream(METHOD)

    def call() -> float:
        replies = get(b"")
        _, began, position = next(replies), time.perf_counter(), 0
        buffer = np.empty(size, np.uint8)
        for piece in replies:
            buffer[position : position + len(piece)] = np.frombuffer(piece, np.uint8)
            position += len(piece)
        if position != size:
            raise AssertionError(f"{position} of {size} bytes")
        return time.perf_counter() - began

    return call


@contextmanager
def bare_server(size: int) -> Iterator[str]:
    """A process that serves pieces of `size` bytes; its address."""
    command = [sys.executable, "-m", "benchmarks.serving_stream", str(size)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            yield running.stdout.readline().strip()
        finally:
            running.terminate()


async def listen(server: grpc.aio.Server) -> None:
    """Serve at a free port, and say at which."""
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


async def _serve(size: int) -> None:
    data = bytes(size)
    parts = [data[at : at + wire.CHUNK_BYTES] for at in range(0, size, wire.CHUNK_BYTES)]

    async def get(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        for part in parts:
            yield part

    server = grpc.aio.server()
    _, service, method = METHOD.split("/")
    handlers = {method: grpc.unary_stream_rpc_method_handler(get)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
    await listen(server)


if __name__ == "__main__":
    keep_freed_memory()
    asyncio.run(_serve(int(sys.argv[1])))
