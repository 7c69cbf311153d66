"""Each rule of each long technique: a job that breaks it is refused at submission, and so by a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from typing import Any

import grpc
import pytest
from support.bad_jobs import BAD, MODELS, VICTIMS, BadJob
from support.redis_server import RedisServer
from support.replies import error_of
from support.repository import add_copy
from support.server_thread import serving

from convlens.errors import ConvLensError
from convlens.v1 import job_pb2, job_pb2_grpc
from convlens_models.repository import ModelRepository
from convlens_server.request.validation import validate
from convlens_workers.device_process import DeviceProcess
from convlens_workers.jobs import ArtifactStore
from convlens_workers.jobs.pictures import decode_images
from convlens_workers.jobs.techniques import NAMES, SPECIFICATIONS
from convlens_workers.jobs.techniques.base import Resources, Rule, Submission
from convlens_workers.messages import Configure, Start
from convlens_workers.techniques import TECHNIQUES

ID = "0" * 32


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Models, victims and folders, of server and worker alike."""
    root = tmp_path_factory.mktemp("models")
    for name, changes in MODELS.items():
        add_copy(root, name, **changes)
    return {"models": root, "victims": VICTIMS, "folders": {"ours": root}}


@pytest.fixture(scope="module")
def jobs(
    shared_redis: RedisServer, places: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[job_pb2_grpc.JobServiceStub]:
    shared_redis.flush()
    settings = {"redis": shared_redis.url, "artifacts": str(tmp_path_factory.mktemp("artifacts"))}
    same = {"models": places["models"], "victims": places["victims"]}
    with (
        serving(**settings, **same, training_folders=places["folders"]) as app,
        grpc.insecure_channel(app.address) as channel,
    ):
        yield job_pb2_grpc.JobServiceStub(channel)


@pytest.fixture(scope="module")
def worker(
    places: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[job_pb2.SubmitJobRequest], object]:
    """Runs a job as the device process does, whoever has stored its request."""
    artifacts = tmp_path_factory.mktemp("store").as_uri()
    ours, _ = Pipe()
    process = DeviceProcess(
        ours,
        Configure(artifacts=artifacts, device="cpu", checkpoint_interval=9, warm_models=2, **places),
    )
    store = ArtifactStore(artifacts)

    def run(request: job_pb2.SubmitJobRequest) -> object:
        digest = store.put(ID, "request", request.SerializeToString(deterministic=True))
        return process._results(Start(ID, digest, ()))

    return run


@pytest.mark.parametrize("case", BAD, ids=lambda case: f"{case.technique}.{case.field}")
def test_what_the_server_refuses_the_worker_refuses(case: BadJob, jobs, worker) -> None:
    refused = error_of(jobs.SubmitJob, case.request)
    with pytest.raises(type(refused)) as by_worker:
        worker(validate(case.request))
    assert refused.field == (f"{case.technique}.{case.field}" if case.field else "")
    assert case.text in refused.message
    assert (by_worker.value.field, by_worker.value.message) == (refused.field, refused.message)


def test_each_rule_is_broken_alone(places: dict[str, Any]) -> None:
    repository = ModelRepository(places["models"])
    resources = Resources(repository, places["victims"], places["folders"])
    seen = set()
    for case in BAD:
        manifest = repository.get(case.model).manifest
        params = getattr(validate(case.request), case.technique)
        images = decode_images(params, manifest, case.technique)
        sizes = {path: pixels.shape[1:] for path, pixels in images}
        job = Submission(case.technique, params, manifest, sizes, resources)
        (broken,) = [rule for rule in SPECIFICATIONS[case.technique].rules if breaks(job, rule)]
        seen.add((case.technique, broken))
    assert seen == {(name, rule) for name in NAMES for rule in SPECIFICATIONS[name].rules}


def test_every_technique_has_a_specification_and_a_function() -> None:
    arms = {arm.name for arm in job_pb2.SubmitJobRequest.DESCRIPTOR.oneofs_by_name["technique"].fields}
    assert arms == SPECIFICATIONS.keys() == TECHNIQUES.keys()


def breaks(job: Submission, rule: Rule) -> bool:
    try:
        rule(job)
    except ConvLensError:
        return True
    return False
