"""What gRPC for Python takes by itself: a server of grpc.aio around the session, and nothing else."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np

from benchmarks.serving_session import open_session
from benchmarks.serving_stream import listen
from convlens.inference import open_inference_pb2 as pb
from convlens.inference import open_inference_pb2_grpc
from convlens_server.cpus import cpus
from convlens_server.serving.malloc import keep_freed_memory


class Bare(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Believes what it is sent; a call that is alone has all CPUs, as with us."""

    def __init__(self, path: str) -> None:
        self._alone, self._among_others = open_session(path, cpus()), open_session(path, 1)
        self._input = self._alone.get_inputs()[0].name
        self._names = [output.name for output in self._alone.get_outputs()]
        self._lanes = ThreadPoolExecutor(cpus())
        self._busy = 0

    async def ServerReady(self, request: Any, context: Any) -> pb.ServerReadyResponse:  # noqa: N802
        """Always."""
        return pb.ServerReadyResponse(ready=True)

    async def ModelInfer(self, request: Any, context: Any) -> pb.ModelInferResponse:  # noqa: N802
        """All outputs of the network."""
        image = np.frombuffer(request.raw_input_contents[0], "<f4").reshape(tuple(request.inputs[0].shape))
        self._busy += 1
        session = self._among_others if self._busy > 1 else self._alone
        found = await asyncio.get_running_loop().run_in_executor(
            self._lanes, session.run, self._names, {self._input: image}
        )
        self._busy -= 1
        output = pb.ModelInferResponse.InferOutputTensor
        return pb.ModelInferResponse(
            model_name=request.model_name,
            outputs=[
                output(name=name, datatype="FP32", shape=value.shape)
                for name, value in zip(self._names, found, strict=True)
            ],
            raw_output_contents=[value.tobytes() for value in found],
        )


async def _serve(path: str) -> None:
    server = grpc.aio.server()
    open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Bare(path), server)
    await listen(server)


if __name__ == "__main__":
    keep_freed_memory()
    asyncio.run(_serve(sys.argv[1]))
