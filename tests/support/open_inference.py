"""An Open Inference Protocol server with one classifier, as little as a client needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import numpy as np

from convlens.inference import open_inference_pb2 as pb
from convlens.inference import open_inference_pb2_grpc

Array = np.ndarray


class OneModel(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    """`scores` of images (N, 3, H, W); `shape` is what the metadata say of them.

    Attributes:
        images: all that were sent.
        failures: what the next calls fail with.
    """

    def __init__(self, scores: Callable[[Array], Array], shape=(-1, 3, -1, -1), raw: bool = True) -> None:
        self._scores, self._shape, self._raw = scores, shape, raw
        self.images: list[Array] = []
        self.failures: list[grpc.StatusCode] = []

    def ModelMetadata(self, request, context):  # noqa: N802
        self._fail(context)
        return pb.ModelMetadataResponse(
            name=request.name,
            inputs=[{"name": "pixels", "datatype": "FP32", "shape": self._shape}],
            outputs=[{"name": "scores", "datatype": "FP32", "shape": [-1, -1]}],
        )

    def ModelInfer(self, request, context):  # noqa: N802
        self._fail(context)
        (tensor,) = request.inputs
        assert (tensor.name, tensor.datatype) == ("pixels", "FP32")
        batch = np.frombuffer(request.raw_input_contents[0], "<f4").reshape(tuple(tensor.shape))
        self.images += list(batch)
        answers = self._scores(batch)
        reply = pb.ModelInferResponse(model_name=request.model_name)
        output = reply.outputs.add(name="scores", datatype="FP32", shape=answers.shape)
        if self._raw:
            reply.raw_output_contents.append(answers.astype("<f4").tobytes())
        else:
            output.contents.fp32_contents.extend(answers.ravel().tolist())
        return reply

    def _fail(self, context) -> None:
        if self.failures:
            context.abort(self.failures.pop(0), "not now")


@contextmanager
def serving_oip(model: OneModel) -> Iterator[str]:
    """Its address, with "oip://"."""
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(model, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"oip://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
