"""A ConvLens server with made-up answers, for tests of the client: it fails and breaks streams on demand."""

from __future__ import annotations

import contextlib
import math
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import grpc
import numpy as np
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf.empty_pb2 import Empty
from google.rpc import code_pb2, status_pb2
from grpc_status import rpc_status
from support.parts import chunks, to_parts

from convlens import wire
from convlens.errors import NotFound, to_status
from convlens.v1 import (
    attack_pb2,
    attack_pb2_grpc,
    attribution_pb2,
    attribution_pb2_grpc,
    inspection_pb2,
    inspection_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    style_pb2,
    style_pb2_grpc,
    target_pb2,
    tensor_pb2,
    unit_pb2,
    unit_pb2_grpc,
)

LABELS = ["stripes", "dots", "wide checks", "fine checks"]
DREAM = np.random.default_rng(0).random((1, 3, 600, 600), np.float32)
HIT = unit_pb2.UnitHit(value=7.5, y=2, x=3, box=unit_pb2.Box(left=1, top=2, right=5, bottom=7))
PREDICTION = target_pb2.Prediction(index=2, label="wide checks", probability=0.75)


CLASS_IDS: list[str] = []


def model(version=1):
    known = {"labels": LABELS, "class_ids": CLASS_IDS, "architecture": "vgg"}
    return model_pb2.Model(name="patterns", version=version, input_size=96, parameters=10, **known)


def metadata(state, step=0):
    return job_pb2.JobMetadata(
        state=job_pb2.JobState.Value(f"JOB_STATE_{state}"),
        technique="deepdream",
        model=model_pb2.ModelRef(name="patterns", version=1),
        step=step,
        total_steps=4,
        losses={"norm": 1.5},
    )


def field_tensors(count):
    """What a measured receptive field consists of."""
    maps = np.random.default_rng(1).random((count, 8, 10), np.float32)
    return {
        "images": np.full((count, 3, 8, 10), 0.5, np.float32),
        "maps": maps,
        "field": np.outer(np.hanning(9), np.hanning(9)).astype(np.float32),
    }


class FakeService(
    model_pb2_grpc.ModelServiceServicer,
    inspection_pb2_grpc.InspectionServiceServicer,
    attribution_pb2_grpc.AttributionServiceServicer,
    attack_pb2_grpc.AttackServiceServicer,
    style_pb2_grpc.StyleServiceServicer,
    unit_pb2_grpc.UnitServiceServicer,
    job_pb2_grpc.JobServiceServicer,
    operations_pb2_grpc.OperationsServicer,
):
    """`requests` keeps what was asked; `failures` fail the next calls; `breaks` cut the next streams.

    All jobs are of the last one's `technique`, and end with the same `artifacts` and `report` (a field of
    `JobResult`).
    """

    def __init__(self):
        self.requests = []
        self.failures = []
        self.breaks = []
        self.jobs = {}
        self.workers = 1
        self.asked = {}
        self.pictures = []
        self.on_the_way = {}
        self.resumable = False
        self.artifacts = {"image": DREAM}
        self.technique = "deepdream"
        self.report = {}
        self.result = job_pb2.JobResult()
        self.turns_to_finish = 1
        self.end = "SUCCEEDED"
        self.tamper = lambda part: part

    def sent(self, kind):
        """The only request of a kind."""
        (request,) = (request for request in self.requests if type(request).__name__ == kind)
        return request

    def _note(self, request, context):
        self.requests.append(request)
        if self.failures:
            context.abort_with_status(rpc_status.to_status(to_status(self.failures.pop(0))))

    def _stream(self, replies, context):
        if not self.breaks:
            yield from replies
            return
        yield from islice(replies, self.breaks.pop(0))
        context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")

    def ListModels(self, request, context):  # noqa: N802
        self._note(request, context)
        pages = {"": ("2", 1), "2": ("", 2)}
        token, version = pages[request.page_token]
        return model_pb2.ListModelsResponse(models=[model(version)], next_page_token=token)

    def GetModel(self, request, context):  # noqa: N802
        self._note(request, context)
        facts = model()
        facts.layers.add(name="features.0", kind="Conv", shape=[8, 96, 96], stride=1, has_weights=True)
        return model_pb2.GetModelResponse(model=facts)

    def GetFilters(self, request, context):  # noqa: N802
        self._note(request, context)
        kernel = np.arange(8 * 27, dtype=np.float32).reshape(8, 3, 3, 3)
        for part in to_parts({"features.0": kernel}):
            yield model_pb2.GetFiltersResponse(tensor=part)

    def Classify(self, request, context):  # noqa: N802
        self._note(request, context)
        item = inspection_pb2.Classification(predictions=[PREDICTION])
        return inspection_pb2.ClassifyResponse(classifications=[item] * len(request.images))

    def GetActivations(self, request, context):  # noqa: N802
        self._note(request, context)
        shape = (len(request.images), 9, 700, 50)
        values = {name: np.full(shape, 7, np.float32) for name in request.layers}
        if request.HasField("top"):
            channels = np.tile(np.arange(request.top, dtype=np.int32), (len(request.images), 1))
            values.update({f"{name}.channels": channels for name in request.layers})
        parts = to_parts(values)
        yield from self._stream(
            (inspection_pb2.GetActivationsResponse(tensor=part) for part in parts), context
        )

    def Attribute(self, request, context):  # noqa: N802
        self._note(request, context)
        count = len(request.images)
        target = attribution_pb2.AttributedTarget(values=[0.5] * count, class_indices=[2] * count)
        if request.HasField("quality"):
            target.insertion.extend([0.75] * count)
            target.deletion.extend([math.nan] * count)
        names = [item.WhichOneof("technique") for item in request.attributions]
        channels = [1 if name in {"grad_cam", "occlusion", "rise"} else 3 for name in names]
        maps = {
            f"{i}.{name}": np.full((count, depth, 8, 8), i, np.float32)
            for i, (name, depth) in enumerate(zip(names, channels, strict=True))
        }
        for part in to_parts(maps):
            yield attribution_pb2.AttributeResponse(tensor=part)
        scoring = request.quality if request.HasField("quality") else None
        result = attribution_pb2.AttributeResult(
            targets=[target] * len(request.attributions), quality=scoring
        )
        yield attribution_pb2.AttributeResponse(result=result)

    def CheckRandomisation(self, request, context):  # noqa: N802
        self._note(request, context)
        good, blank = ((0.5, 0.25), (math.nan, math.nan))
        for layer, pair in (("top", good), ("below", blank)):
            correlation = attribution_pb2.RankCorrelation(
                signed=pair[0], absolute=pair[1], blank=pair is blank
            )
            yield attribution_pb2.CheckRandomisationResponse(
                layer=layer, correlations=[correlation] * len(request.attributions)
            )

    def Attack(self, request, context):  # noqa: N802
        self._note(request, context)
        certificate = attack_pb2.Certificate(
            linf=0.1, before=PREDICTION, after=PREDICTION, after_encoding=PREDICTION, queries=2
        )
        yield attack_pb2.AttackResponse(
            result=attack_pb2.AttackResult(certificates=[certificate] * len(request.images))
        )
        shape = (len(request.images), 3, 8, 8)
        names = ("original", "gradient_sign", "adversarial")
        for part in to_parts({name: np.full(shape, i / 2, np.float32) for i, name in enumerate(names)}):
            yield attack_pb2.AttackResponse(tensor=part)

    def MeasureRobustness(self, request, context):  # noqa: N802
        self._note(request, context)
        points = [
            attack_pb2.RobustnessPoint(epsilon=i / 8, accuracy=1 - i / 2, noise_accuracy=1) for i in range(3)
        ]
        for point in points:
            yield attack_pb2.MeasureRobustnessResponse(point=point)
        yield attack_pb2.MeasureRobustnessResponse(
            alarms=attack_pb2.RobustnessAlarms(survives_full_range=True)
        )

    def Stylise(self, request, context):  # noqa: N802
        self._note(request, context)
        for part in to_parts({"image": np.full((1, 3, 20, 30), 0.5, np.float32)}):
            yield style_pb2.StyliseResponse(tensor=part)

    def StreamFeatures(self, request_iterator, context):  # noqa: N802
        for request in request_iterator:
            self.requests.append(request)
            if request.WhichOneof("part") != "image":
                continue
            vector = np.full(3, len(self.requests) - 1, np.float32)
            for part in to_parts({request.image.name: vector}):
                yield inspection_pb2.StreamFeaturesResponse(tensor=part)

    def GetUnitPatterns(self, request, context):  # noqa: N802
        self._note(request, context)
        hits = [HIT] * len(request.images)
        yield unit_pb2.GetUnitPatternsResponse(result=unit_pb2.UnitPatternsResult(hits=hits))
        tensors = {}
        for i in range(len(hits)):
            tensors[f"{i}.pattern"] = np.full((3, 5, 4 + i), i - 0.5, np.float32)
            tensors[f"{i}.crop"] = np.full((3, 5, 4 + i), 0.5, np.float32)
        for part in to_parts(tensors):
            yield unit_pb2.GetUnitPatternsResponse(tensor=part)

    def GetDiscrepancyMaps(self, request, context):  # noqa: N802
        self._note(request, context)
        hits = [HIT] * len(request.images)
        result = unit_pb2.DiscrepancyResult(hits=hits, theoretical_size=9, empirical_size=4.5)
        yield unit_pb2.GetDiscrepancyMapsResponse(result=result)
        for part in to_parts(field_tensors(len(hits))):
            yield unit_pb2.GetDiscrepancyMapsResponse(tensor=part)

    def SubmitJob(self, request, context):  # noqa: N802
        name = f"operations/{request.request_id}"
        self.jobs.setdefault(name, "QUEUED")
        self.asked[name] = request
        self.technique = request.WhichOneof("technique") or self.technique
        self._note(request, context)
        return self._operation(name)

    def GetJobRequest(self, request, context):  # noqa: N802
        self._note(request, context)
        asked = self.asked.get(request.name, job_pb2.SubmitJobRequest())
        if not asked.WhichOneof("technique"):
            getattr(asked, self.technique).SetInParent()
        return job_pb2.GetJobRequestResponse(request=asked, pictures=self.pictures)

    def GetJobStats(self, request, context):  # noqa: N802
        stats = job_pb2.QueueStats(
            priority=job_pb2.PRIORITY_HIGH,
            queue="convlens-high",
            queued=2,
            oldest_queued_seconds=7.5,
            counters={"retried": 3},
            throughput={"cpu": 2e9},
            workers=self.workers,
        )
        return job_pb2.GetJobStatsResponse(queues=[stats])

    def WatchJob(self, request, context):  # noqa: N802
        self._note(request, context)
        states = [
            metadata("QUEUED"),
            *(metadata("RUNNING", step) for step in range(1, 5)),
            metadata(self.end, 4),
        ]
        for state in states[2:]:
            state.artifacts.extend(self._on_the_way())
        first = int(request.after_event_id or 0)
        replies = (
            job_pb2.WatchJobResponse(event_id=str(i + 1), metadata=states[i])
            for i in range(first, len(states))
        )
        yield from self._stream(replies, context)

    def ReadArtifact(self, request, context):  # noqa: N802
        self._note(request, context)
        artifact = {**self.artifacts, **self.on_the_way}[request.artifact]
        data = artifact.reshape(-1).view(np.uint8).data
        head = wire.header(request.artifact, artifact, sha256=True)
        parts = [tensor_pb2.TensorPart(header=head)]
        parts += [
            tensor_pb2.TensorPart(chunk=chunk)
            for chunk in chunks(data[request.read_offset :], request.read_offset)
        ]
        replies = (job_pb2.ReadArtifactResponse(tensor=self.tamper(part)) for part in parts)
        yield from self._stream(replies, context)

    def GetOperation(self, request, context):  # noqa: N802
        self._note(request, context)
        if request.name not in self.jobs:
            context.abort_with_status(rpc_status.to_status(to_status(NotFound(f"no {request.name}"))))
        return self._operation(request.name)

    def ListOperations(self, request, context):  # noqa: N802
        self._note(request, context)
        return operations_pb2.ListOperationsResponse(operations=[self._operation(name) for name in self.jobs])

    def WaitOperation(self, request, context):  # noqa: N802
        self._note(request, context)
        self.turns_to_finish -= 1
        if self.turns_to_finish <= 0:
            self.jobs[request.name] = self.end
        return self._operation(request.name)

    def CancelOperation(self, request, context):  # noqa: N802
        self._note(request, context)
        self.jobs[request.name] = self.end = "CANCELLED"
        return Empty()

    def DeleteOperation(self, request, context):  # noqa: N802
        self._note(request, context)
        del self.jobs[request.name]
        return Empty()

    def _on_the_way(self):
        return [wire.header(name, value, sha256=True) for name, value in self.on_the_way.items()]

    def _operation(self, name):
        state = self.jobs[name]
        operation = operations_pb2.Operation(name=name, done=state not in ("QUEUED", "RUNNING"))
        facts = metadata(state)
        facts.technique = self.technique
        facts.resumable = self.resumable or bool(self.on_the_way)
        facts.step = int(facts.resumable)
        facts.artifacts.extend(self._on_the_way())
        if name in self.asked:
            facts.tags.update(self.asked[name].tags)
        operation.metadata.Pack(facts)
        if state == "SUCCEEDED":
            headers = [wire.header(name, artifact, sha256=True) for name, artifact in self.artifacts.items()]
            result = job_pb2.JobResult(artifacts=headers, **self.report)
            result.MergeFrom(self.result)
            operation.response.Pack(result)
        elif operation.done:
            operation.error.CopyFrom(
                status_pb2.Status(code=code_pb2.CANCELLED, message="the job was cancelled")
            )
        return operation


@contextlib.contextmanager
def serving(service, port=0):
    """Serves on a free port; yields the address."""
    server = grpc.server(
        ThreadPoolExecutor(4),
        options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 64 << 20)],
    )
    for add in (
        model_pb2_grpc.add_ModelServiceServicer_to_server,
        inspection_pb2_grpc.add_InspectionServiceServicer_to_server,
        attribution_pb2_grpc.add_AttributionServiceServicer_to_server,
        attack_pb2_grpc.add_AttackServiceServicer_to_server,
        style_pb2_grpc.add_StyleServiceServicer_to_server,
        unit_pb2_grpc.add_UnitServiceServicer_to_server,
        job_pb2_grpc.add_JobServiceServicer_to_server,
        operations_pb2_grpc.add_OperationsServicer_to_server,
    ):
        add(service, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
