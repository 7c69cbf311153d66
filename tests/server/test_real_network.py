"""SqueezeNet 1.0 and real photographs, through gRPC, against libraries trusted for the same thing."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import captum.attr
import grpc
import numpy as np
import pytest
import torch
from support.kinks import assert_same_gradient
from support.replies import tensors_of
from support.server_thread import serving

from convlens import wire
from convlens.v1 import (
    attack_pb2,
    attack_pb2_grpc,
    attribution_pb2,
    attribution_pb2_grpc,
    image_pb2,
    inspection_pb2,
    inspection_pb2_grpc,
    model_pb2,
)
from convlens_models.importing.importer import add_architecture
from convlens_models.network import Network, load_network
from convlens_models.preprocess import to_input
from convlens_models.repository import ModelRepository, StoredModel

MODEL = model_pb2.ModelRef(name="squeezenet1_0")
EPSILON = 8 / 255

# What Captum and Foolbox say about themselves, in the tests that call them.
captum_says = pytest.mark.filterwarnings(
    "ignore:Setting (forward, )?backward hooks on ReLU activations:UserWarning",
    "ignore:Input Tensor 0 did not already require gradients:UserWarning",
)


@pytest.fixture(scope="module")
def repository(data: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelRepository:
    root = tmp_path_factory.mktemp("models")
    models = data / "models"
    add_architecture(
        root, "squeezenet1_0", models / "squeezenet1_0.safetensors", models / "imagenet_labels.tsv"
    )
    return ModelRepository(root)


@pytest.fixture(scope="module")
def stored(repository: ModelRepository) -> StoredModel:
    return repository.get(MODEL.name)


@pytest.fixture(scope="module")
def network(stored: StoredModel) -> Network:
    return load_network(stored)


@pytest.fixture(scope="module")
def real_channel(repository: ModelRepository) -> Iterator[grpc.Channel]:
    with serving(models=repository.root) as app, grpc.insecure_channel(app.address) as channel:
        yield channel


@pytest.fixture(scope="module")
def photos(data: Path) -> list[Path]:
    return sorted((data / "photos").iterdir())


@pytest.fixture(scope="module")
def foolbox() -> Any:
    """The library, which imports SciPy by a name that SciPy will drop."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*`scipy.ndimage.filters` namespace", DeprecationWarning)
        import foolbox

        return foolbox


def inputs(photos: list[Path], stored: StoredModel) -> torch.Tensor:
    images = [image_pb2.Image(encoded=photo.read_bytes()) for photo in photos]
    return torch.from_numpy(np.stack([to_input(image, stored.manifest) for image in images]))


def error(found: np.ndarray, reference: np.ndarray) -> float:
    """Relative L2; of nothing at all, 0 or infinity."""
    if not reference.any():
        return float("inf") if found.any() else 0.0
    return float(np.linalg.norm(found - reference) / np.linalg.norm(reference))


@pytest.mark.parametrize(
    "count", [pytest.param(40, id="40"), pytest.param(400, id="400", marks=pytest.mark.slow)]
)
def test_classify_agrees_with_pytorch_photo_by_photo(real_channel, network, stored, photos, count) -> None:
    stub = inspection_pb2_grpc.InspectionServiceStub(real_channel)
    chosen = photos[:: len(photos) // count][:count]
    served: list[int] = []
    for start in range(0, count, 20):
        images = [image_pb2.Image(encoded=photo.read_bytes()) for photo in chosen[start : start + 20]]
        reply = stub.Classify(inspection_pb2.ClassifyRequest(model=MODEL, images=images, top_k=1))
        served += [classification.predictions[0].index for classification in reply.classifications]
    with torch.no_grad():
        expected = [int(network(inputs([photo], stored)).argmax()) for photo in chosen]
    assert served == expected
    correct = sum(index == int(photo.name[:4]) for index, photo in zip(served, chosen, strict=True))
    assert correct > count * 0.5  # 61.9% on a thousand photos, says the data's README.


def captum_map(method: str, network: Network, batch: torch.Tensor, classes: list[int]) -> np.ndarray:
    """The attribution of class scores by Captum, in the precision of the network."""
    attributions = {
        "gradient": lambda: captum.attr.Saliency(network).attribute(batch, classes, abs=False),
        "guided_backprop": lambda: captum.attr.GuidedBackprop(network).attribute(batch, classes),
        "deconvnet": lambda: captum.attr.Deconvolution(network).attribute(batch, classes),
    }
    return attributions[method]().detach().numpy()


@captum_says
@pytest.mark.parametrize("step", [pytest.param(80, id="few"), pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", ["gradient", "guided_backprop", "deconvnet"])
def test_saliency_agrees_with_captum(real_channel, stored, photos, method, step) -> None:
    """Within 1e-5 of float64, or of its own jumps where pools nearly tie."""
    stub = attribution_pb2_grpc.AttributionServiceStub(real_channel)
    exact, seen = load_network(stored).double(), 0
    for photo in photos[::step]:
        image = image_pb2.Image(encoded=photo.read_bytes())
        request = attribution_pb2.AttributeRequest(
            model=MODEL, images=[image], attributions=[attribution_pb2.Attribution(**{method: {}})]
        )
        result, tensors = tensors_of(stub.Attribute(request))
        classes = list(result.targets[0].class_indices)

        def reference(images: np.ndarray, classes: list[int] = classes) -> np.ndarray:
            return captum_map(method, exact, torch.from_numpy(images), classes)

        batch = inputs([photo], stored).double().numpy()
        seen += bool(reference(batch).any())
        assert_same_gradient(tensors[f"0.{method}"], batch, reference, 1e-5)
    whole = 5 if method == "deconvnet" else 20  # Few class scores get through this network's ReLUs.
    assert seen >= whole * 20 // step


def test_log_probability_and_neurons_agree_with_autograd(real_channel, stored, photos) -> None:
    stub = attribution_pb2_grpc.AttributionServiceStub(real_channel)
    exact = load_network(stored).double()
    layer = "features.7"
    targets = [
        {"log_probability": {"index": 281}},
        {"neuron": {"layer": layer, "channel": 9, "y": 4, "x": 11}},
    ]
    for photo in photos[::100]:
        request = attribution_pb2.AttributeRequest(
            model=MODEL,
            images=[image_pb2.Image(encoded=photo.read_bytes())],
            attributions=[attribution_pb2.Attribution(gradient={}, target=target) for target in targets],
        )
        _, tensors = tensors_of(stub.Attribute(request))
        pixels = inputs([photo], stored).double().requires_grad_()
        values = exact.taps(pixels, ["log_probabilities", layer])
        scalars = [values["log_probabilities"][0, 281], values[layer][0, 9, 4, 11]]
        for found, scalar in zip(tensors.values(), scalars, strict=True):
            (reference,) = torch.autograd.grad(scalar, pixels, retain_graph=True)
            assert error(found, reference.numpy()) <= 2e-2


@pytest.mark.parametrize("targeted", [False, True])
def test_fgsm_agrees_with_foolbox(foolbox, real_channel, network, stored, photos, targeted) -> None:
    stub = attack_pb2_grpc.AttackServiceStub(real_channel)
    chosen = photos[7::40]
    batch = inputs(chosen, stored)
    with torch.no_grad():
        before = network(batch).argmax(dim=1)
    target = torch.full_like(before, 281)
    goal = {"targeted": {"index": 281}} if targeted else {}
    request = attack_pb2.AttackRequest(
        model=MODEL,
        images=[image_pb2.Image(tensor=wire.to_tensor(image.numpy())) for image in batch],
        fgsm=attack_pb2.Fgsm(epsilon=EPSILON),
        **goal,
    )
    result, tensors = tensors_of(stub.Attack(request))
    # In float64: of a photo that the network is certain of, float32 loses the gradient of the cross entropy.
    model = foolbox.PyTorchModel(load_network(stored).double(), bounds=(0, 1), device="cpu")
    criterion = foolbox.criteria.TargetedMisclassification(target) if targeted else before
    # Foolbox's own FGSM knows no targets, but is one step of its basic iterative attack.
    one_step = foolbox.attacks.LinfBasicIterativeAttack(rel_stepsize=1.0, steps=1)
    attack = one_step if targeted else foolbox.attacks.LinfFastGradientAttack()
    _, theirs, succeeded = attack(model, batch.double(), criterion, epsilons=EPSILON)
    ours = tensors["adversarial"]
    equal = np.isclose(ours, theirs.numpy(), rtol=0, atol=1e-6)
    assert equal.mean() >= 0.999, equal.mean(axis=(1, 2, 3))
    with torch.no_grad():
        after = network(torch.from_numpy(ours)).softmax(dim=1)
    for position, found in enumerate(result.certificates):
        assert found.before.index == before[position]
        assert found.after.index == after[position].argmax()
        assert found.after.probability == pytest.approx(float(after[position].max()), abs=1e-4)
        assert found.success == bool(succeeded[position])
        assert found.linf == pytest.approx(np.abs(ours[position] - batch[position].numpy()).max(), abs=1e-7)
        assert found.linf == pytest.approx(EPSILON, rel=1e-5)
    assert targeted or sum(found.success for found in result.certificates) > len(chosen) / 2
