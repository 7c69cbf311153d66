"""Classifiers that may only be asked: a ConvLens server's, or one of an Open Inference Protocol server.

A victim gets pictures as any client could send them, 8 bit, and gives probabilities. Its address is that of
CONVLENS_VICTIMS: "host:port" for ConvLens, "oip://host:port" for the other; a path, "host:port/model", names
a model that is called otherwise there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol, TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray

from convlens import wire
from convlens.errors import (
    ConvLensError,
    DeadlineExceeded,
    FailedPrecondition,
    ResourceExhausted,
    Unavailable,
    from_rpc_error,
)
from convlens.inference import open_inference_pb2, open_inference_pb2_grpc
from convlens.v1 import image_pb2, inspection_pb2, inspection_pb2_grpc, model_pb2
from convlens_models.manifest import Manifest

F32 = NDArray[np.float32]
Pixels = NDArray[np.uint8]
T = TypeVar("T")

OIP: Final = "oip://"
CALL_SECONDS: Final = 30.0
AWAY_SECONDS: Final = 60.0
"""Seconds that a victim may be away: well below the time after which a device process counts as hung."""
FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0
MESSAGE_BYTES: Final = 3 << 20
"""Bytes of the pictures of one call, below the 4 MiB that gRPC servers take unless told otherwise."""
MOST_IMAGES: Final = 64
MOST_CLASSES: Final = 1000
"""Bounds of ClassifyRequest."""


class Victim(Protocol):
    """A classifier that is reached over the network, and may only be queried."""

    def ask(self, images: Pixels) -> F32:
        """Probabilities (N, classes) of images (N, H, W, 3); each image is one query.

        Raises:
            FailedPrecondition: the victim refuses the query, or has other classes.
            Unavailable: it was away for a minute.
        """


@contextmanager
def opened(address: str, manifest: Manifest) -> Iterator[Victim]:
    """The victim at `address`, asked for the classes of `manifest`."""
    kind = OpenInference if address.startswith(OIP) else ConvLens
    target, _, model = address.removeprefix(OIP).partition("/")
    options = [("grpc.max_receive_message_length", 64 << 20)]
    with grpc.insecure_channel(target, options) as channel:
        yield kind(channel, model, manifest)


class ConvLens:
    """convlens.v1.InspectionService.Classify, the model of the manifest's name and version."""

    def __init__(self, channel: grpc.Channel, model: str, manifest: Manifest) -> None:
        self._classify = inspection_pb2_grpc.InspectionServiceStub(channel).Classify
        own = model_pb2.ModelRef(name=manifest.name, version=manifest.version)
        self._model = model_pb2.ModelRef(name=model) if model else own
        self._classes = len(manifest.labels)

    def ask(self, images: Pixels) -> F32:
        """See `Victim`; of more than 1,000 classes those beyond the 1,000 likeliest get 0."""
        answers = np.concatenate([self._ask(part) for part in parts(images, images[0].nbytes)])
        if self._classes <= MOST_CLASSES and not np.allclose(answers.sum(1), 1, atol=1e-3):
            raise FailedPrecondition(
                "the victim's classes are independent: a copy learns from a distribution"
            )
        return answers

    def _ask(self, images: Pixels) -> F32:
        resize = image_pb2.Resize(keep=image_pb2.Resize.Keep())
        files = [image_pb2.Image(encoded=wire.encode_image(image), resize=resize) for image in images]
        top_k = min(self._classes, MOST_CLASSES)
        request = inspection_pb2.ClassifyRequest(model=self._model, images=files, top_k=top_k)
        reply = retried(lambda: self._classify(request, timeout=CALL_SECONDS))
        probabilities = np.zeros((len(images), self._classes), np.float32)
        for row, classification in zip(probabilities, reply.classifications, strict=True):
            for prediction in classification.predictions:
                if prediction.index >= self._classes:
                    raise other_classes(f"class {prediction.index}", self._classes)
                row[prediction.index] = prediction.probability
        return probabilities


class OpenInference:
    """inference.GRPCInferenceService.ModelInfer: FP32 (N, 3, H, W) in [0, 1] to an output (N, classes)."""

    def __init__(self, channel: grpc.Channel, model: str, manifest: Manifest) -> None:
        self._stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        self._name = model or manifest.name
        self._classes = len(manifest.labels)
        self._about: Any = None

    def ask(self, images: Pixels) -> F32:
        """See `Victim`; an output that is no distribution is taken for logits."""
        taken = self._input(images.shape)
        most = 1 if taken.shape[0] == 1 else MOST_IMAGES
        answers = [self._ask(part, taken.name) for part in parts(images, 4 * images[0].size, most)]
        return np.concatenate(answers)

    def _input(self, shape: tuple[int, ...]) -> Any:
        """The input of the model. Raises FailedPrecondition where it takes no images of this `shape`."""
        if self._about is None:
            request = open_inference_pb2.ModelMetadataRequest(name=self._name)
            self._about = retried(lambda: self._stub.ModelMetadata(request, timeout=CALL_SECONDS))
        wanted, inputs = (-1, 3, *shape[1:3]), list(self._about.inputs)
        if len(inputs) == 1 and inputs[0].datatype == "FP32" and fits(inputs[0].shape, wanted):
            return inputs[0]
        takes = ", ".join(f"{tensor.datatype} {list(tensor.shape)}" for tensor in inputs) or "nothing"
        wrong = f"the victim's model {self._name!r} takes {takes}"
        raise FailedPrecondition(f"{wrong}: must be one input, FP32 {list(wanted)}")

    def _ask(self, images: Pixels, name: str) -> F32:
        values = np.ascontiguousarray(images.transpose(0, 3, 1, 2), "<f4") / np.float32(255)
        request = open_inference_pb2.ModelInferRequest(model_name=self._name)
        request.inputs.add(name=name, datatype="FP32", shape=values.shape)
        request.outputs.add(name=self._about.outputs[0].name)
        request.raw_input_contents.append(values.tobytes())
        reply = retried(lambda: self._stub.ModelInfer(request, timeout=CALL_SECONDS))
        raw, output = reply.raw_output_contents, reply.outputs[0]
        scores = np.frombuffer(raw[0], "<f4") if raw else np.array(output.contents.fp32_contents, np.float32)
        if output.datatype != "FP32" or scores.size != len(images) * self._classes:
            raise other_classes(f"{output.datatype} {list(output.shape)}", self._classes)
        return distribution(scores.reshape(len(images), self._classes))


def fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether a model whose input has `shape`, -1 for any extent, takes batches of the shape `wanted`."""
    pairs = zip(shape[1:], wanted[1:], strict=False)
    return len(shape) == len(wanted) and all(extent in (-1, size) for extent, size in pairs)


def distribution(scores: F32) -> F32:
    """`scores` (N, classes) where each row is one already, and else their softmax."""
    if scores.min() >= 0 and np.allclose(scores.sum(1), 1, atol=1e-3):
        return scores
    raised = np.exp(scores - scores.max(1, keepdims=True))
    return np.asarray(raised / raised.sum(1, keepdims=True))


def parts(images: Pixels, image_bytes: int, most: int = MOST_IMAGES) -> list[Pixels]:
    """`images` in as many pieces as messages need that carry `image_bytes` for each, at most `most`."""
    size = max(1, min(most, MESSAGE_BYTES // image_bytes))
    return [images[first : first + size] for first in range(0, len(images), size)]


def other_classes(answer: str, classes: int) -> FailedPrecondition:
    """The error for a victim whose answer is about other classes than the model's."""
    return FailedPrecondition(f"the victim answered {answer}: must be one of the model's {classes} classes")


def retried(call: Callable[[], T]) -> T:
    """The value of `call`, tried again while the victim is away, slow, or says when to come back.

    Raises:
        Unavailable, ResourceExhausted, DeadlineExceeded: it was so for a minute.
        FailedPrecondition: it refuses; tells why.
    """
    until, delay = time.monotonic() + AWAY_SECONDS, FIRST_DELAY
    while True:
        try:
            return call()
        except grpc.RpcError as failure:
            error = from_rpc_error(failure)
            pause = max(delay, error.retry_after or 0)
            if not passing(error):
                refusal = f"the victim refuses: {error.reason}: {error.message}"
                raise FailedPrecondition(refusal) from failure
            if time.monotonic() + pause > until:
                raise type(error)(f"the victim is away: {error.message}") from failure
        time.sleep(pause)
        delay = min(2 * delay, LONGEST_DELAY)


def passing(error: ConvLensError) -> bool:
    """Whether an error is one after which it is worth asking again."""
    return isinstance(error, (Unavailable, DeadlineExceeded)) or (
        isinstance(error, ResourceExhausted) and error.retry_after is not None
    )
