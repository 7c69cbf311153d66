"""Which networks a job is bound to."""

from __future__ import annotations

from pathlib import Path

from support.tiny_model import NAME

from convlens.v1 import adversarial_pb2, job_pb2, model_pb2
from convlens_models.repository import ModelRepository
from convlens_workers.jobs.models import digests

TINY, ANY = model_pb2.ModelRef(name=NAME, version=1), model_pb2.ModelRef(name=NAME)
PATTERNS = model_pb2.ModelRef(name="patterns", version=1)


def test_all_networks_whose_version_is_stated(tiny_models: Path) -> None:
    """Also those within lists of a technique, and of lists within them."""
    repository = ModelRepository(tiny_models)
    known = {f"{name}/1": repository.get(name, 1).manifest.digest for name in (NAME, "patterns")}
    matrix = adversarial_pb2.TransferMatrix(models=[PATTERNS, ANY])
    request = job_pb2.SubmitJobRequest(model=TINY, transfer_matrix=matrix)
    assert digests(request, repository) == known
    request.transfer_matrix.ClearField("models")
    assert set(digests(request, repository)) == {f"{NAME}/1"}
    seen = job_pb2.FeatureVisualisation()
    seen.objectives.add().terms.add(model=PATTERNS)
    request = job_pb2.SubmitJobRequest(model=TINY, feature_visualisation=seen)
    assert digests(request, repository) == known
    assert digests(job_pb2.SubmitJobRequest(model=ANY), repository) == {}
