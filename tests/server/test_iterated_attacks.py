"""BIM and PGD on SqueezeNet 1.0 and photographs against Foolbox, and what they promise."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from convlens.errors import InvalidArgument
from convlens.v1 import attack_pb2, image_pb2, model_pb2
from convlens_models.importing.importer import add_architecture
from convlens_models.manifest import PROBABILITIES
from convlens_models.measures.certificate import AttackGoal
from convlens_models.network import load_network
from convlens_models.preprocess import to_input
from convlens_models.repository import ModelRepository
from convlens_server.backends.models import LoadedModels
from convlens_server.backends.providers import Compute
from convlens_server.settings import ServerSettings
from convlens_server.techniques import ATTACKS
from convlens_server.techniques.descent import BALLS

L2, LINF = attack_pb2.NORM_L2, attack_pb2.NORM_LINF


@pytest.fixture(scope="module")
def backend(data: Path, tmp_path_factory: pytest.TempPathFactory):
    root, models = tmp_path_factory.mktemp("models"), data / "models"
    add_architecture(
        root, "squeezenet1_0", models / "squeezenet1_0.safetensors", models / "imagenet_labels.tsv"
    )
    loaded = LoadedModels(ModelRepository(root), Compute(lambda: 1), ServerSettings(max_models=2))
    yield loaded.get(model_pb2.ModelRef(name="squeezenet1_0"))
    loaded.close()


@pytest.fixture(scope="module")
def photos(data: Path, backend):
    """Photographs that the network has right, as it gets them, and their classes."""
    return right(backend, sorted((data / "photos").iterdir())[::25], 4)


@pytest.fixture(scope="module")
def foolbox() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*`scipy.ndimage.filters` namespace", DeprecationWarning)
        import foolbox

        return foolbox


def right(backend, paths: list[Path], count: int) -> tuple[np.ndarray, np.ndarray]:
    images, classes = [], []
    for path in paths:
        pixels = to_input(image_pb2.Image(encoded=path.read_bytes()), backend.stored.manifest)
        if predicted(backend, pixels[None])[0] == int(path.name[:4]):
            images.append(pixels)
            classes.append(int(path.name[:4]))
        if len(images) == count:
            break
    assert len(images) == count
    return np.stack(images), np.array(classes)


def probabilities(backend, images: np.ndarray) -> np.ndarray:
    return np.concatenate([backend.forward(image[None], [PROBABILITIES])[PROBABILITIES] for image in images])


def predicted(backend, images: np.ndarray) -> np.ndarray:
    return probabilities(backend, images).argmax(axis=1)


class Case(NamedTuple):
    """One of our attacks, and the same one of Foolbox: same epsilon, steps and start."""

    name: str
    technique: str
    params: Any
    theirs: str
    targeted: bool = False


def linf(name: str, epsilon: float, step: float, steps: int, **more: Any) -> Case:
    params = attack_pb2.Bim(epsilon=epsilon, step_size=step, steps=steps)
    return Case(name, "bim", params, "LinfBasicIterativeAttack", **more)


def pgd(name: str, norm: int, epsilon: float, step: float, steps: int, **more: Any) -> Case:
    params = attack_pb2.Pgd(
        norm=norm, epsilon=epsilon, step_size=step, steps=steps, start_at_image=True, restarts=1
    )
    return Case(name, "pgd", params, "L2PGD" if norm == L2 else "LinfPGD", **more)


CASES = [
    linf("BIM", 2 / 255, 0.5 / 255, 10),
    linf("BIM too weak", 0.25 / 255, 0.1 / 255, 5),
    linf("BIM targeted", 8 / 255, 2 / 255, 10, targeted=True),
    pgd("PGD", LINF, 1 / 255, 0.25 / 255, 10),
    pgd("PGD in L2", L2, 0.5, 0.125, 10),
    pgd("PGD in L2 targeted", L2, 3.0, 0.5, 10, targeted=True),
]
QUICK = {"BIM", "PGD in L2 targeted"}


class Exact:
    """The network in PyTorch and float64, as an backend."""

    def __init__(self, stored) -> None:
        self.stored = stored
        self.network = load_network(stored).double()

    def gradient(self, images, layer, cotangent, rule):
        pixels = torch.from_numpy(images).requires_grad_()
        value = self.network.taps(pixels, [layer])[layer]
        (gradient,) = torch.autograd.grad(value, pixels, torch.from_numpy(cotangent).double())
        return value.detach().numpy(), gradient.numpy()


def by_foolbox(
    foolbox, network, images: np.ndarray, goal: AttackGoal, case: Case
) -> tuple[np.ndarray, list[bool]]:
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    kind = "TargetedMisclassification" if case.targeted else "Misclassification"
    criterion = getattr(foolbox.criteria, kind)(torch.from_numpy(goal.classes))
    attack = getattr(foolbox.attacks, case.theirs)(
        abs_stepsize=case.params.step_size, steps=case.params.steps, random_start=False
    )
    _, found, succeeded = attack(model, torch.from_numpy(images), criterion, epsilons=case.params.epsilon)
    return found.numpy(), succeeded.tolist()


def agreement(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Share of pixel values of each photo within 1e-5."""
    return (np.abs(ours - theirs) <= 1e-5).mean(axis=(1, 2, 3))


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name, marks=() if case.name in QUICK else pytest.mark.slow)
        for case in CASES
    ],
)
def test_the_loop_is_foolboxs(foolbox, backend, photos, case: Case) -> None:
    """In float64: steps along gradients of this network amplify rounding a thousand times in ten steps."""
    images, classes = (values[:1] for values in photos)
    goal = AttackGoal(case.targeted, np.full_like(classes, 281) if case.targeted else classes)
    exact = Exact(backend.stored)
    ours = ATTACKS[case.technique].compute(exact, images.astype(np.float64), goal, case.params).adversarial
    theirs, succeeded = by_foolbox(foolbox, exact.network, images.astype(np.float64), goal, case)
    assert agreement(ours, theirs).min() >= 0.99
    assert list(goal.met(probabilities(backend, ours.astype(np.float32)))) == succeeded


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_agrees_with_foolbox_photo_by_photo(foolbox, backend, photos, case: Case) -> None:
    """The same success on each photo; the same pixels where Foolbox's float32 agrees with its own float64."""
    images, classes = photos
    goal = AttackGoal(case.targeted, np.full_like(classes, 281) if case.targeted else classes)
    ours = ATTACKS[case.technique].compute(backend, images, goal, case.params).adversarial
    network = load_network(backend.stored)
    theirs, succeeded = by_foolbox(foolbox, network, images, goal, case)
    exact, _ = by_foolbox(foolbox, network.double(), images.astype(np.float64), goal, case)
    assert list(goal.met(probabilities(backend, ours))) == succeeded
    ours_agree, theirs_agree = agreement(ours, exact), agreement(theirs, exact)
    assert (ours_agree >= 0.99).sum() >= (theirs_agree >= 0.99).sum(), (ours_agree, theirs_agree)


@pytest.mark.parametrize("norm", [LINF, pytest.param(L2, marks=pytest.mark.slow)])
def test_success_grows_with_epsilon_and_steps(backend, photos, norm) -> None:
    images, classes = (values[:3] for values in photos)
    goal = AttackGoal(False, classes)

    def successes(epsilon: float, steps: int) -> int:
        params = attack_pb2.Pgd(norm=norm, epsilon=epsilon, steps=steps, start_at_image=True, restarts=1)
        found = ATTACKS["pgd"].compute(backend, images, goal, params).adversarial
        return int(goal.met(probabilities(backend, found)).sum())

    base = 8 / 255 if norm == LINF else 2.0
    by_epsilon = [successes(base * share, 3) for share in (0.02, 0.1, 1)]
    by_steps = [successes(base / 10, steps) for steps in (1, 3)]
    assert by_epsilon == sorted(by_epsilon)
    assert by_steps == sorted(by_steps)
    assert by_epsilon[-1] == len(images)
    assert by_epsilon[0] < by_epsilon[-1]


def test_targeted_pgd_reaches_the_class(backend, photos) -> None:
    images = photos[0][:2]
    goal = AttackGoal(True, np.full(len(images), 281))
    params = attack_pb2.Pgd(steps=10, restarts=1)
    found = ATTACKS["pgd"].compute(backend, images, goal, params).adversarial
    assert goal.met(probabilities(backend, found)).all()


@pytest.mark.slow
def test_pgd_leaves_an_undefended_network_nothing(backend, data: Path) -> None:
    """Below 2% of 100 photographs that SqueezeNet had right."""
    images, classes = right(backend, sorted((data / "photos").iterdir()), 100)
    params = attack_pb2.Pgd(epsilon=8 / 255, step_size=2 / 255, steps=10, restarts=1)
    found = ATTACKS["pgd"].compute(backend, images, AttackGoal(False, classes), params).adversarial
    assert np.abs(found - images).max() <= 8 / 255 + 1e-6
    assert (predicted(backend, found) == classes).mean() < 0.02


def test_l2_noise_is_uniform_in_the_ball() -> None:
    like = np.zeros((4000, 1, 1, 2), np.float32)
    inside = BALLS[L2].inside(np.random.default_rng(0), like, 2.0).reshape(-1, 2)
    lengths = np.linalg.norm(inside, axis=1)
    assert lengths.max() <= 2
    assert (lengths < 1).mean() == pytest.approx(0.25, abs=0.03)  # Half the radius, a quarter of the disc.
    assert np.abs(inside.mean(axis=0)).max() < 0.1


def test_epsilon_above_the_range_of_pixels_is_refused(backend, photos) -> None:
    images, classes = photos
    with pytest.raises(InvalidArgument, match=r"pgd\.epsilon.*between 0 and 1"):
        ATTACKS["pgd"].compute(
            backend, images, AttackGoal(False, classes), attack_pb2.Pgd(epsilon=8, steps=1, restarts=1)
        )
