"""Each rule of each long technique: a job that breaks it is refused at submission, and so by a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from typing import Any

import grpc
import pytest
import torch
from safetensors.torch import save_file
from support.bad_jobs import (
    ANY_SIZE,
    BAD,
    CARICATURE,
    MANIFEST,
    MODELS,
    OTHER,
    SIDE,
    UNIT,
    VICTIMS,
    BadJob,
    picture,
    term,
)
from support.redis_server import RedisServer
from support.replies import error_of
from support.repository import add_copy
from support.server_thread import serving
from support.style import style_state

from convlens.errors import ConvLensError
from convlens.v1 import job_pb2, job_pb2_grpc
from convlens_models.architectures import ARCHITECTURES
from convlens_models.importing.importer import add_architecture
from convlens_models.importing.style_import import add_style
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
    add_style(root, style_state(width=4), "painted")
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
    ours, theirs = Pipe()
    process = DeviceProcess(
        ours,
        Configure(artifacts=artifacts, device="cpu", checkpoint_interval=9, warm_models=2, **places),
    )
    store = ArtifactStore(artifacts)

    def run(request: job_pb2.SubmitJobRequest) -> object:
        digest = store.put(ID, "request", request.SerializeToString(deterministic=True))
        assert not theirs.closed  # Whoever started the process listens.
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


@pytest.mark.parametrize(("technique", "fields"), ANY_SIZE, ids=[technique for technique, _ in ANY_SIZE])
def test_what_stops_before_a_head_of_one_size_takes_any(technique: str, fields: Any, jobs, worker) -> None:
    request = job_pb2.SubmitJobRequest(model={"name": "fixed"}, **{technique: fields})
    assert jobs.SubmitJob(request).name
    image = worker(validate(request, ModelRepository().get().manifest))["image"]
    assert list(image.shape[2:]) == OTHER.tensor.shape[1:]


def test_units_before_a_head_of_one_size_are_visualised_at_any(jobs, worker) -> None:
    """Also from a picture of any size, and beside another network, whose version the server fills in."""
    terms = [
        {"target": {"channel": {"layer": "features.relu3_2", "channel": 1}}},
        {"target": {"class_score": {"index": 0}}, "model": {"name": "other"}},
    ]
    fields = {
        "objectives": [{"terms": terms}],
        "height": 40,
        "width": 72,
        "steps": 1,
        "start": picture(30, 20),
    }
    request = job_pb2.SubmitJobRequest(model={"name": "fixed"}, feature_visualisation=fields)
    assert jobs.SubmitJob(request).name
    made = worker(validate(request, ModelRepository().get().manifest))
    assert made["images"].shape == (1, 3, 40, 72)
    assert made["visualisation"].objectives[0].name == "features.relu3_2:1 + class 0 (0) of other/1"


def test_versions_of_other_networks_are_those_at_submission(places: dict[str, Any]) -> None:
    params = job_pb2.FeatureVisualisation(**term(target=UNIT, model={"name": "other"}))
    repository = ModelRepository(places["models"])
    job = Submission("feature_visualisation", params, MANIFEST, resources=Resources(repository))
    SPECIFICATIONS["feature_visualisation"].complete(job)
    assert params.objectives[0].terms[0].model.version == 1


def test_layers_of_a_term_are_those_of_its_network(jobs) -> None:
    for field in ("caricature", "target.channel"):
        what = {"caricature": {**CARICATURE, "layer": "nothing"}, "target": {"channel": {"layer": "nothing"}}}
        kind = field.partition(".")[0]
        fields = term(**{kind: what[kind]}, model={"name": "other"})
        refused = error_of(jobs.SubmitJob, job_pb2.SubmitJobRequest(feature_visualisation=fields))
        assert refused.field == f"feature_visualisation.objectives[0].terms[0].{field}.layer"
        assert "a layer of other" in refused.message


@pytest.mark.slow
def test_vgg19_paints_at_512_px(places: dict[str, Any], jobs, worker) -> None:
    root = places["models"]
    torch.manual_seed(0)
    save_file(ARCHITECTURES["vgg19"].build(2).state_dict(), root / "vgg19.safetensors")
    labels = root / "labels.txt"
    labels.write_text("a\nb")
    manifest = add_architecture(root, "vgg19", root / "vgg19.safetensors", labels)
    styled = {
        "content": picture(384, 512),
        "styles": [{"image": picture(512, 400)}],
        "first_steps": 1,
        "steps": 1,
        "smallest": 384,
    }
    request = job_pb2.SubmitJobRequest(model={"name": "vgg19"}, style_transfer=styled)
    assert jobs.SubmitJob(request).name
    assert worker(validate(request, manifest))["image"].shape == (1, 3, 384, 512)


def test_what_reads_the_head_keeps_to_its_size(jobs) -> None:
    dream = {"image": OTHER, "layers": ["features.relu3_2", "classifier"]}
    for fields in ({"deepdream": dream}, {"lbfgs_attack": {"images": [OTHER], "targets": [1]}}):
        refused = error_of(jobs.SubmitJob, job_pb2.SubmitJobRequest(model={"name": "fixed"}, **fields))
        assert "the one size that fixed accepts" in refused.message


def test_a_picture_too_small_for_the_layers_is_refused(jobs) -> None:
    small = {"deepdream": {"image": picture(8, SIDE), "layers": ["features.relu5_2"]}}
    refused = error_of(jobs.SubmitJob, job_pb2.SubmitJobRequest(model={"name": "fixed"}, **small))
    assert refused.field == "deepdream.image"


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
