"""A network of independent classes, served: all that is said of a class is about its own sigmoid."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from support.foreign_onnx import CLASSES, classifier, save
from support.server_thread import serving

from convlens.inference import open_inference_pb2, open_inference_pb2_grpc
from convlens_client import ClassScore, Client, LogProbability
from convlens_models.importing.onnx_import import add_onnx
from convlens_models.measures.certificate import AttackGoal, through_png
from convlens_models.runtime import ort
from convlens_server.app import App

SIDE = 16
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("independent")


@pytest.fixture(scope="module")
def app(folder: Path) -> Iterator[App]:
    """A server that has the network as "many"."""
    save(classifier(end="Sigmoid", size=("N", 3, SIDE, SIDE)), folder)
    add_onnx(folder / "models", folder / "foreign.onnx", "many", **PLAIN)
    with serving(models=folder / "models", threads=1) as app:
        yield app


@pytest.fixture(scope="module")
def client(app: App) -> Iterator[Client]:
    with Client(app.address) as client:
        yield client


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(3).random((4, 3, SIDE, SIDE), np.float32)


@pytest.fixture(scope="module")
def probabilities(folder: Path, images: np.ndarray) -> np.ndarray:
    """Those of the file itself, (4, 5)."""
    return of_file(folder, images)


def of_file(folder: Path, images: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(str(folder / "foreign.onnx")).run(None, {"data": images})[0]


def test_the_model_says_so(client: Client):
    model = client.get_model("many")
    assert (model.output_kind, model.independent) == ("multilabel", True)
    assert client.get_model("patterns").output_kind == "scores"


def test_probabilities_are_the_sigmoids_of_the_file(client: Client, images, probabilities):
    assert (np.abs(probabilities.sum(1) - 1) > 0.1).all()
    for row, answer in zip(probabilities, client.classify(images, top_k=CLASSES, model="many"), strict=True):
        assert [p.index for p in answer.predictions] == np.argsort(-row).tolist()
        np.testing.assert_allclose([p.probability for p in answer.predictions], np.sort(row)[::-1], rtol=1e-5)


def test_targets_are_the_logit_of_a_class_and_the_logarithm_of_its_probability(
    client: Client, folder: Path, images, probabilities
):
    logits = np.log(probabilities / (1 - probabilities))[:, 2]
    values = {"logit": (ClassScore(2), logits), "log": (LogProbability(2), np.log(probabilities)[:, 2])}
    for target, expected in values.values():
        found = client.attribute(images, "gradient", target, model="many")
        np.testing.assert_allclose(found.values, expected, rtol=1e-4, atol=1e-5)
    step = np.sign(found.map) * np.float32(5e-4)
    differences = [np.log(of_file(folder, images + sign * step)[:, 2]) for sign in (1, -1)]
    slopes = (found.map * step).sum((1, 2, 3))
    np.testing.assert_allclose((differences[0] - differences[1]) / 2, slopes, rtol=1e-2)


@pytest.mark.parametrize("method", ["fgsm", "bim", "pgd"])
@pytest.mark.parametrize("targeted", [True, False])
def test_an_attack_succeeds_where_the_probability_crosses_one_half(
    method: str, targeted: bool, client: Client, folder: Path, images, probabilities
):
    label = 1
    goal = {"target": label} if targeted else {"labels": [label] * len(images)}
    outcome = client.attack(images, method, epsilon=0.02, model="many", **goal)
    after = of_file(folder, outcome.adversarial)
    encoded = of_file(folder, through_png(outcome.adversarial))
    met = [(p[:, label] > 0.5) == targeted for p in (probabilities, after, encoded)]
    certificates = outcome.certificates
    assert [c.met_before for c in certificates] == met[0].tolist()
    assert [c.success for c in certificates] == met[1].tolist()
    assert [c.success_after_encoding for c in certificates] == met[2].tolist()
    towards = after[:, label] - probabilities[:, label]
    assert (towards > 0 if targeted else towards < 0).all()
    for told, values in ((lambda c: c.before, probabilities), (lambda c: c.after, after)):
        assert {told(c).index for c in certificates} == {label}
        np.testing.assert_allclose([told(c).probability for c in certificates], values[:, label], rtol=1e-4)


def test_without_labels_the_most_probable_class_is_left(client: Client, folder: Path, images, probabilities):
    top = probabilities.argmax(1)
    outcome = client.attack(images, "bim", epsilon=0.3, model="many")
    after = of_file(folder, outcome.adversarial)[np.arange(len(top)), top]
    assert [c.success for c in outcome.certificates] == (after <= 0.5).tolist()
    assert [c.before.index for c in outcome.certificates] == top.tolist()


def test_accuracy_is_the_share_of_labels_that_are_seen(client: Client, folder: Path, images, probabilities):
    labels = [0, 1, 2, 3]
    seen = probabilities[np.arange(4), labels] > 0.5
    assert seen.sum() > 0
    measured = client.robustness(images, labels, "fgsm", epsilons=[0, 1], model="many")
    assert measured.points[0].accuracy == pytest.approx(seen.mean())
    adversarial = client.attack(images, "fgsm", labels=labels, epsilon=1.0, model="many").adversarial
    still = seen & (of_file(folder, adversarial)[np.arange(4), labels] > 0.5)
    assert measured.points[1].accuracy == pytest.approx(still.mean())


def test_the_open_inference_protocol_gives_the_same_two_outputs(app: App, images, probabilities):
    with grpc.insecure_channel(app.address) as channel:
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = open_inference_pb2.ModelInferRequest(model_name="many")
        request.inputs.add(name="image", datatype="FP32", shape=images.shape)
        request.raw_input_contents.append(images.tobytes())
        reply = stub.ModelInfer(request)
    assert [output.name for output in reply.outputs] == ["probabilities", "fc"]
    found, logits = (np.frombuffer(raw, np.float32).reshape(-1, CLASSES) for raw in reply.raw_output_contents)
    np.testing.assert_allclose(found, probabilities, rtol=1e-5)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), probabilities, rtol=1e-5)


def test_a_goal_is_met_at_one_half_whatever_other_classes_do():
    rows = np.float32([[0.6, 0.9], [0.5, 0.1], [0.4, 0.1]])
    zero = np.zeros(3, np.int64)
    assert AttackGoal(True, zero, independent=True).met(rows).tolist() == [True, False, False]
    assert AttackGoal(False, zero, independent=True).met(rows).tolist() == [False, True, True]
    assert AttackGoal(True, zero).met(rows).tolist() == [False, True, True]
