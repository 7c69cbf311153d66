"""A long run of calls of all kinds: memory, file descriptors and threads level off."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
import psutil
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from support.front_end import FrontEnd
from support.job_plane import dream
from support.redis_server import RedisServer
from support.replies import tensors_of

from convlens import wire
from convlens.inference import open_inference_pb2 as oip
from convlens.inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from convlens.v1 import attack_pb2, attribution_pb2, collection_pb2, image_pb2, inspection_pb2
from convlens.v1.attack_pb2_grpc import AttackServiceStub
from convlens.v1.attribution_pb2_grpc import AttributionServiceStub
from convlens.v1.collection_pb2_grpc import CollectionServiceStub
from convlens.v1.inspection_pb2_grpc import InspectionServiceStub
from convlens.v1.job_pb2_grpc import JobServiceStub

SIDE: Final = 32
PIXELS: Final = np.random.default_rng(0).random((3, SIDE, SIDE), np.float32)
TENSOR: Final = image_pb2.Image(tensor=wire.to_tensor(PIXELS))
FILE: Final = image_pb2.Image(encoded=wire.encode_image(PIXELS))


class Calls:
    """Each method makes one or several calls, and looks whether they were answered."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._numbers = itertools.count()
        self._jobs, self._operations = JobServiceStub(channel), operations_pb2_grpc.OperationsStub(channel)
        self._collections = CollectionServiceStub(channel)

    def classify(self) -> None:
        """A file and a refusal."""
        stub = InspectionServiceStub(self._channel)
        assert stub.Classify(inspection_pb2.ClassifyRequest(images=[FILE])).classifications
        with pytest.raises(grpc.RpcError):
            stub.Classify(inspection_pb2.ClassifyRequest(images=[{"encoded": b"no picture"}]))

    def activations(self) -> None:
        request = inspection_pb2.GetActivationsRequest(images=[TENSOR], layers=["features.relu4_1"])
        assert tensors_of(InspectionServiceStub(self._channel).GetActivations(request))[1]

    def attribute(self) -> None:
        request = attribution_pb2.AttributeRequest(
            images=[TENSOR], attributions=[{"gradient": {}}, {"guided_backprop": {}}]
        )
        assert len(tensors_of(AttributionServiceStub(self._channel).Attribute(request))[1]) == 2

    def attack(self) -> None:
        request = attack_pb2.AttackRequest(images=[TENSOR], fgsm={})
        assert tensors_of(AttackServiceStub(self._channel).Attack(request))[1]

    def leave(self) -> None:
        """A call that is cancelled after its first reply."""
        request = attribution_pb2.AttributeRequest(images=[TENSOR], attributions=[{"gradient": {}}] * 8)
        call = AttributionServiceStub(self._channel).Attribute(request)
        next(call)
        call.cancel()

    def infer(self) -> None:
        request = oip.ModelInferRequest(
            model_name="patterns",
            inputs=[{"name": "image", "datatype": "FP32", "shape": [1, *PIXELS.shape]}],
            raw_input_contents=[PIXELS.tobytes()],
        )
        assert GRPCInferenceServiceStub(self._channel).ModelInfer(request).raw_output_contents

    def job(self) -> None:
        """Queued, looked at, watched for a moment, cancelled, deleted."""
        name = self._jobs.SubmitJob(dream(5, seed=next(self._numbers))).name
        self._operations.GetOperation(operations_pb2.GetOperationRequest(name=name))
        self._operations.CancelOperation(operations_pb2.CancelOperationRequest(name=name))
        self._operations.DeleteOperation(operations_pb2.DeleteOperationRequest(name=name))

    def collection(self) -> None:
        name = f"c{next(self._numbers)}"
        self._collections.CreateCollection(collection_pb2.CreateCollectionRequest(id=name))
        parts = [{"collection": name}, {"image": {"name": "a.png", "encoded": FILE.encoded}}]
        added = self._collections.AddImages(collection_pb2.AddImagesRequest(**part) for part in parts)
        assert [reply.error for reply in added] == [""]
        self._collections.ListImages(collection_pb2.ListImagesRequest(id=name))
        self._collections.DeleteCollection(collection_pb2.DeleteCollectionRequest(id=name))

    def kinds(self) -> Iterator[tuple[Callable[[], Any], int]]:
        """Each kind with its number of calls, again and again."""
        return itertools.cycle(
            [
                *((kind, 1) for kind in (self.activations, self.attribute, self.attack, self.infer)),
                *((self.leave, 1), (self.classify, 2), (self.job, 4), (self.collection, 4)),
            ]
        )


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("warm_up", "calls"), [(300, 900), pytest.param(2_000, 20_000, marks=pytest.mark.slow)]
)
def test_what_a_server_holds_levels_off(
    redis_server: RedisServer, tiny_models: Path, tmp_path: Path, warm_up: int, calls: int
) -> None:
    places = {"redis": redis_server.url, "artifacts": tmp_path, "models": tiny_models}
    with FrontEnd(**places) as front_end, grpc.insecure_channel(front_end.address) as channel:
        process, made = psutil.Process(front_end.process.pid), 0
        before: tuple[int, int, int] | None = None
        for kind, count in Calls(channel).kinds():
            kind()
            made += count
            if made >= warm_up and before is None:
                before = front_end.memory(), process.num_fds(), process.num_threads()
            if made >= calls:
                break
        after = front_end.memory(), process.num_fds(), process.num_threads()
    assert before is not None
    for when, (memory, *others) in (("warm", before), ("at the end", after)):
        print(f"{when}: {memory >> 20} MiB, descriptors and threads {others}")
    assert after[0] < 1.05 * before[0] + (8 << 20)
    assert after[1] <= before[1] + 2
    assert after[2] <= before[2] + 2
