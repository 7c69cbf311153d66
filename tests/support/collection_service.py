"""A server with collections, its channel, and what is asked of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.longrunning import operations_pb2, operations_pb2_grpc
from support.replies import tensors_of

from convlens.v1 import collection_pb2 as pb
from convlens.v1 import (
    collection_pb2_grpc,
    inspection_pb2,
    job_pb2,
    job_pb2_grpc,
    unit_pb2_grpc,
)

LAYER = "features.relu4_2"
COUNT = 60
SETS = ("mean", "max", "flatten")
PHOTOS = "photos"


class Place:
    """A server, its channel, and what it has been filled with."""

    def __init__(self, channel: grpc.Channel, artifacts: Path = Path()) -> None:
        self.artifacts = artifacts
        self.collections = collection_pb2_grpc.CollectionServiceStub(channel)
        self.jobs = job_pb2_grpc.JobServiceStub(channel)
        self.units = unit_pb2_grpc.UnitServiceStub(channel)
        self.operations = operations_pb2_grpc.OperationsStub(channel)

    def add(self, id_: str, files: dict[str, bytes]) -> list[pb.AddImagesResponse]:
        parts = [pb.AddImagesRequest(collection=id_)]
        parts += [pb.AddImagesRequest(image=pb.NamedFile(name=n, encoded=f)) for n, f in files.items()]
        return list(self.collections.AddImages(iter(parts)))

    def extract(self, id_: str, layer: str = LAYER, **fields: Any) -> job_pb2.JobMetadata:
        params = job_pb2.ExtractFeatures(collection=id_, layers=[layer], **fields)
        _, metadata = self.succeeded(job_pb2.SubmitJobRequest(extract_features=params))
        return metadata

    def succeeded(self, request: job_pb2.SubmitJobRequest) -> tuple[str, job_pb2.JobMetadata]:
        """Name and last metadata of a job that has run."""
        operation = self.jobs.SubmitJob(request)
        events = list(self.jobs.WatchJob(job_pb2.WatchJobRequest(name=operation.name), timeout=60))
        assert events[-1].metadata.state == job_pb2.JOB_STATE_SUCCEEDED, events[-1]
        return operation.name, events[-1].metadata

    def result(self, name: str) -> job_pb2.JobResult:
        result = job_pb2.JobResult()
        operation = self.operations.GetOperation(operations_pb2.GetOperationRequest(name=name))
        assert operation.response.Unpack(result)
        return result

    def artifact(self, name: str, artifact: str) -> np.ndarray:
        request = job_pb2.ReadArtifactRequest(name=name, artifact=artifact)
        return tensors_of(self.jobs.ReadArtifact(request))[1][artifact]

    def create(self, id_: str) -> pb.Collection:
        return self.collections.CreateCollection(pb.CreateCollectionRequest(id=id_)).collection


def features(pooling: str = "mean", layer: str = LAYER) -> pb.FeatureRef:
    return pb.FeatureRef(layer=layer, pooling=inspection_pb2.Pooling.Value(f"POOLING_{pooling.upper()}"))
