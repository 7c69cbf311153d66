"""Long techniques in a real worker: what each is reckoned to cost tells how long it takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import pytest
import redis
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf.message import Message
from support.redis_server import RedisServer
from support.server_thread import serving
from support.worker_process import WorkerProcess

from convlens.v1 import adversarial_pb2, image_pb2, job_pb2, job_pb2_grpc, model_pb2, style_pb2
from convlens_client import Client
from convlens_models.importing.importer import add_architecture
from convlens_workers.jobs.record import operation_id
from convlens_workers.jobs.scripts import OPERATION
from convlens_workers.jobs.techniques import NAMES
from convlens_workers.settings import WorkerSettings

FACTOR = 1.5
NAME = "squeezenet1_0"
SIDE = 128
LAYER = "features.6"
CHANNEL = job_pb2.Objective(
    terms=[{"target": {"channel": {"layer": "features.9", "channel": 3}}, "weight": 1}]
)


def jobs(data: Path) -> dict[str, Message]:
    """A job of each technique, of a few seconds."""
    files = sorted((data / "photos").glob("*.jpg"))
    photos = [photo(path) for path in files]
    labels = [int(path.name[:4]) for path in files]
    four, right = photos[:4], labels[:4]
    return {
        "deepdream": job_pb2.DeepDream(image=photo(files[0], 224), steps=4),
        "texture": job_pb2.Texture(sample=photo(files[1], 150), steps=5, scales=2),
        "style_transfer": job_pb2.StyleTransfer(
            content=photos[0], styles=[{"image": photos[1]}], smallest=64, first_steps=5, steps=4
        ),
        "style_transfer classic": job_pb2.StyleTransfer(
            content=photos[0],
            styles=[{"image": photo(files[1], 300)}],
            method=job_pb2.STYLE_METHOD_CLASSIC,
            first_steps=8,
        ),
        "feature_visualisation": job_pb2.FeatureVisualisation(
            objectives=[CHANNEL], variants=2, size=SIDE, steps=12
        ),
        "lbfgs_attack": adversarial_pb2.LbfgsAttack(images=four[:1], targets=[3], searches=3, steps=15),
        "carlini_wagner": adversarial_pb2.CarliniWagner(images=four[:2], targets=[5], searches=2, steps=20),
        "expectation_attack": adversarial_pb2.ExpectationAttack(
            images=four[:1], targets=[3], samples=8, steps=6, angles=3, held_out=4
        ),
        "adversarial_patch": adversarial_pb2.AdversarialPatch(
            images=photos[:10], target=3, samples=8, steps=6
        ),
        "defence_attack": adversarial_pb2.DefenceAttack(
            images=four, labels=right, defence={"jpeg": {}}, steps=8
        ),
        "defence_attack by total variation": adversarial_pb2.DefenceAttack(
            images=four, labels=right, defence={"total_variation": {}}, steps=8
        ),
        "attack_ensemble": adversarial_pb2.AttackEnsemble(
            images=photos[:6], labels=labels[:6], epsilon=1 / 255, steps=10, targets=3, queries=60
        ),
        "transfer_matrix": adversarial_pb2.TransferMatrix(
            images=four, labels=right, models=[{"name": "twin"}], steps=6
        ),
        "attribution_maps": job_pb2.AttributionMaps(
            images=four[:1], attributions=[{"rise": {"masks": 100}}, {"smoothgrad": {"samples": 30}}]
        ),
        "substitute": adversarial_pb2.Substitute(
            images=photos[:16], held_out=photos[16:20], rounds=1, epochs=8
        ),
        "printed_photo": adversarial_pb2.PrintedPhoto(
            images=four, labels=right, epsilons=[4 / 255], photographs=2
        ),
        "train_style": style_pb2.TrainStyle(
            style=photos[1], name="painter", collection="photos", steps=6, batch=2, size=SIDE, width=16
        ),
        "extract_features": job_pb2.ExtractFeatures(collection="photos", layers=[LAYER], parts=1),
        "measure_receptive_field": job_pb2.MeasureReceptiveField(
            collection="photos", layer=LAYER, channel=3, k=3, discrepancy={"patch": 16, "stride": 8}
        ),
    }


def photo(path: Path, side: int = SIDE) -> image_pb2.Image:
    """A picture at one size."""
    return image_pb2.Image(encoded=path.read_bytes(), resize={"exact": {"height": side, "width": side}})


@dataclass
class Machine:
    """A server, and a worker of one thread."""

    channel: grpc.Channel
    redis: Any
    worker: WorkerProcess

    def measured(self, technique: str, params: Message) -> tuple[float, float]:
        """Multiply-adds that a job is reckoned to cost, and seconds that its device process has computed."""
        request = job_pb2.SubmitJobRequest(model=model_pb2.ModelRef(name=NAME), **{technique: params})
        before = self._seconds()
        operation = job_pb2_grpc.JobServiceStub(self.channel).SubmitJob(request)
        wait = operations_pb2.WaitOperationRequest(name=operation.name, timeout={"seconds": 200})
        ended = operations_pb2_grpc.OperationsStub(self.channel).WaitOperation(wait)
        assert ended.WhichOneof("result") == "response", (technique, ended.error)
        cost = self.redis.hget(OPERATION + operation_id(operation.name), "cost")
        return float(cost), self._seconds() - before

    def _seconds(self) -> float:
        times = self.worker.device_process().cpu_times()
        return times.user + times.system


@pytest.fixture
def machine(redis_server: RedisServer, data: Path, tmp_path: Path) -> Iterator[Machine]:
    models, place = tmp_path / "models", {"redis": redis_server.url, "artifacts": str(tmp_path / "artifacts")}
    weights, labels = data / "models/squeezenet1_0.safetensors", data / "models/imagenet_labels.tsv"
    for name in (NAME, "twin"):
        add_architecture(models, "squeezenet1_0", weights, labels, name=name)
    with serving(models=models, victims={"self": "known to the worker"}, **place) as app:
        victims = {"self": app.address}
        settings = WorkerSettings(models=models, device="cpu", victims=victims, warm_models=3, **place)
        worker = WorkerProcess(settings, tmp_path).ready()
        try:
            with Client(app.address) as client, grpc.insecure_channel(app.address) as channel:
                client.create_collection("photos")
                list(client.add_images("photos", sorted((data / "photos").glob("*.jpg"))[:24]))
                yield Machine(channel, redis.Redis.from_url(redis_server.url), worker)
        finally:
            worker.end()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_a_job_is_reckoned_to_cost_tells_how_long_it_takes(machine: Machine, data: Path) -> None:
    cases = jobs(data)
    assert {name.partition(" ")[0] for name in cases} == set(NAMES)
    for technique in ("deepdream", "texture", "transfer_matrix"):  # What is slow once is done then.
        machine.measured(technique, cases[technique])
    speeds = {}
    for name, params in cases.items():
        cost, seconds = machine.measured(name.partition(" ")[0], params)
        speeds[name] = cost / seconds
        print(
            f"{name:<36} {cost:.3g} multiply-adds {seconds:6.2f} s, {speeds[name]:.3g} a second", flush=True
        )
    usual = median(speeds.values())
    off = {name: round(usual / speed, 2) for name, speed in speeds.items()}
    assert all(1 / FACTOR < ratio < FACTOR for ratio in off.values()), off
