"""Attacks of the physical world: expectation over transformation, patches, printed photographs."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from google.protobuf.message import Message
from support import techniques
from support.adversarial import drawings, make_task
from torch import Tensor

from convlens.errors import InvalidArgument
from convlens.v1 import adversarial_pb2, attack_pb2
from convlens_server.request.validation import validate
from convlens_workers.jobs.techniques.adversarial_patch import PLACEMENTS
from convlens_workers.jobs.techniques.printed_photo import iterations
from convlens_workers.techniques import begin
from convlens_workers.techniques.adversarial_patch import Objective
from convlens_workers.techniques.base import Step, Task
from convlens_workers.techniques.parts.loop import generator
from convlens_workers.techniques.printed_photo import Objective as Camera

STILL = {"rotation": 0, "scale": 0, "perspective": 0, "brightness": 0, "contrast": 0, "noise": 0}


@pytest.fixture(scope="module")
def foolbox() -> Any:
    """The library, which imports SciPy by a name that SciPy will drop."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*`scipy.ndimage.filters` namespace", DeprecationWarning)
        import foolbox

        return foolbox


def task_of(message: Message, images: list[Tensor] | None = None) -> Task:
    """Of the embedded model, on drawings that it has right."""
    network, manifest, drawn, _ = drawings(5)
    chosen = drawn[: len(message.images)] if images is None else images
    return make_task(network, manifest, chosen, [], lambda *_: validate(message, manifest))


def run(name: str, task: Task) -> tuple[list[Step], dict[str, Any]]:
    return techniques.run(begin(name, task))


def pictures(count: int) -> list[dict[str, Any]]:
    return [{"encoded": b"decoded elsewhere"}] * count


def expectation(**given: Any) -> adversarial_pb2.ExpectationAttack:
    small = {"images": pictures(2), "targets": [30, 40], "samples": 4, "steps": 6, "angles": 2, "held_out": 2}
    return adversarial_pb2.ExpectationAttack(**(small | given))


@pytest.mark.parametrize("norm", [attack_pb2.NORM_LINF, attack_pb2.NORM_L2])
def test_what_is_found_lies_in_the_ball_and_withstands_more_than_the_picture_did(
    norm: attack_pb2.Norm,
) -> None:
    epsilon = 0.05 if norm == attack_pb2.NORM_LINF else 1.5
    message = expectation(norm=norm, epsilon=epsilon, samples=4, steps=10, held_out=2)
    _, results = run("expectation_attack", task_of(message))
    change = (results["adversarial"] - results["original"]).flatten(1)
    length = change.abs().amax(1) if norm == attack_pb2.NORM_LINF else change.norm(dim=1)
    assert float(length.max()) <= epsilon * (1 + 1e-5)
    assert float(length.min()) >= epsilon * 0.9
    assert 0 <= float(results["adversarial"].min()) <= float(results["adversarial"].max()) <= 1
    original, _, adversarial = results["probabilities"].mean(2)
    assert (adversarial > original).all()
    assert [c.queries for c in results["attack"].certificates] == [40, 40]


def test_a_radius_of_zero_leaves_the_picture() -> None:
    _, results = run("expectation_attack", task_of(expectation(epsilon=0)))
    assert torch.equal(results["adversarial"], results["original"])
    assert torch.equal(results["naive"], results["original"])


def test_without_transforms_it_is_the_naive_attack_and_that_is_foolboxs(foolbox: Any) -> None:
    message = expectation(transforms=STILL, epsilon=0.02, steps=5)
    _, results = run("expectation_attack", task_of(message))
    near = (results["adversarial"] - results["naive"]).abs() < 1e-5
    assert float(near.float().mean()) > 0.99  # A gradient of nearly zero may have either sign.
    model = foolbox.PyTorchModel(drawings(5)[0], bounds=(0, 1), device="cpu")
    oracle = foolbox.attacks.LinfBasicIterativeAttack(abs_stepsize=2.5 * 0.02 / 5, steps=5)
    goal = foolbox.criteria.TargetedMisclassification(torch.tensor([30, 40]))
    _, wanted, _ = oracle(model, results["original"].clone(), goal, epsilons=0.02)
    near = (wanted - results["naive"]).abs() < 1e-5
    assert float(near.float().mean()) > 0.99


def test_the_curve_is_what_the_network_says_of_turned_pictures() -> None:
    message = expectation(transforms=STILL | {"rotation": 90}, angles=3, held_out=2)
    _, results = run("expectation_attack", task_of(message))
    assert results["angles"].tolist() == [-90, 0, 90]
    for row, name in enumerate(("original", "naive", "adversarial")):
        for column, quarters in enumerate((-1, 0, 1)):
            turned = torch.rot90(results[name], quarters, (2, 3))
            wanted = drawings(5)[0](turned).softmax(1)[[0, 1], [30, 40]]
            torch.testing.assert_close(results["probabilities"][row, :, column], wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("given", "field"),
    [({"targets": [1, 2, 3]}, "expectation_attack.targets"), ({"epsilon": 8}, "expectation_attack.epsilon")],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        run("expectation_attack", task_of(expectation(**given)))
    assert error.value.field == field


def patch(**given: Any) -> adversarial_pb2.AdversarialPatch:
    small = {"images": pictures(5), "target": 30, "samples": 4, "steps": 20, "size": 0.5}
    return adversarial_pb2.AdversarialPatch(**(small | given))


def test_a_patch_is_learned_and_judged_by_every_fifth_picture() -> None:
    task = task_of(patch(learning_rate=0.1))
    steps, results = run("adversarial_patch", task)
    losses = [float(step.losses["cross_entropy"]) for step in steps[:20]]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert len(steps) == 21
    judged = results["pictures"]
    assert judged.shape == (1, 3, 96, 96)
    assert results["patch"].placements == PLACEMENTS
    objective = Objective(task)
    with torch.no_grad():
        hits = (drawings(5)[0](objective.judged(0, results["disc"])).argmax(1) == 30).float().mean()
    assert results["patch"].success == pytest.approx(float(hits))


def test_a_placed_patch_is_a_whole_disc_and_leaves_the_rest_as_it_is() -> None:
    wide = {"rotation": 180, "scale": 0.2, "perspective": 0, "brightness": 0, "contrast": 0, "noise": 0}
    objective = Objective(task_of(patch(size=0.4, transforms=wide), [torch.zeros(1, 3, 80, 120)] * 5))
    assert objective.side == 32
    area = 3.14159 * 16**2
    assert float(objective.mask.sum()) == pytest.approx(area, rel=0.01)
    black, white = torch.zeros(50, 3, 80, 120), torch.ones(1, 3, 32, 32)
    seen = objective.covered(black, white, objective.placed(50, generator(0)))
    areas = seen[:, 0].sum((1, 2)) / area
    assert 0.8**2 * 0.97 < float(areas.min()) < 0.75
    assert 1.3 < float(areas.max()) < 1.2**2 * 1.03
    rows, columns = torch.meshgrid(torch.arange(80.0), torch.arange(120.0), indexing="ij")
    mass = seen[:, 0].sum((1, 2))
    centres = [(seen[:, 0] * places).sum((1, 2)) / mass for places in (rows, columns)]
    assert float(centres[0].std()) > 42 / 5
    assert float(centres[1].std()) > 82 / 5
    image = torch.rand(50, 3, 80, 120, generator=generator(1))
    untouched = seen[:, :1] == 0
    covered = objective.covered(image, white, objective.placed(50, generator(0)))
    assert torch.equal(covered[untouched.expand_as(image)], image[untouched.expand_as(image)])


def test_too_few_pictures_to_judge_a_patch_are_refused() -> None:
    with pytest.raises(InvalidArgument) as error:
        run("adversarial_patch", task_of(patch(images=pictures(4))))
    assert error.value.field == "adversarial_patch.held_out"


def printed(**given: Any) -> adversarial_pb2.PrintedPhoto:
    small = {"images": pictures(4), "labels": drawings(5)[3][:4], "photographs": 2}
    return adversarial_pb2.PrintedPhoto(**(small | given))


def test_as_many_iterations_as_in_the_paper() -> None:
    assert [iterations(e / 255) for e in (0.5, 1, 4, 8, 16, 32, 100)] == [1, 1, 5, 10, 20, 36, 104]


def test_counts_are_those_of_the_attacks_written_out() -> None:
    epsilon = 12 / 255
    task = task_of(printed(epsilons=[epsilon]))
    network, images = drawings(5)[0], torch.cat(list(task.images.values()))
    labels = network(images).argmax(1)
    steps, results = run("printed_photo", task)
    assert len(steps) == 4 * 2 + 1 + 2 * iterations(epsilon)

    def signs(x: Tensor, classes: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(network(x), classes, reduction="sum")
        return torch.autograd.grad(loss, x)[0].sign()

    bim = least = images
    unlikely = network(images).argmin(1)
    for _ in range(iterations(epsilon)):
        bim = (images + (bim + signs(bim, labels) / 255 - images).clamp(-epsilon, epsilon)).clamp(0, 1)
        moved = least - signs(least, unlikely) / 255
        least = (images + (moved - images).clamp(-epsilon, epsilon)).clamp(0, 1)
    attacked = {
        "fgsm": (images + epsilon * signs(images, labels)).clamp(0, 1),
        "bim": bim,
        "least_likely": least,
    }
    camera = Camera(task)
    for row, (name, pictures) in zip(results["printed"].rows, attacked.items(), strict=True):
        prints = (pictures * 255).round() / 255
        wrong = network(prints).argmax(1) != labels
        undone = [network(camera.photograph(prints, n)).argmax(1) == labels for n in range(2)]
        assert (row.attack, row.epsilon) == (name, pytest.approx(epsilon))
        assert row.success == pytest.approx(float(wrong.float().mean()))
        assert row.success > 0
        assert row.destruction == pytest.approx(float(torch.stack(undone)[:, wrong].float().mean()))


def test_a_perfect_camera_only_encodes() -> None:
    perfect = {"rotation": 0, "perspective": 0, "blur": 0, "gamma": 1, "noise": 0, "quality": 70}
    task = task_of(printed(epsilons=[1 / 255], **perfect))
    prints = torch.cat(list(task.images.values())).mul(255).round() / 255
    file = io.BytesIO()
    levels = prints[0].mul(255).round().byte().permute(1, 2, 0).numpy()
    PIL.Image.fromarray(levels).save(file, "JPEG", quality=70)
    wanted = np.asarray(PIL.Image.open(file)).transpose(2, 0, 1) / np.float32(255)
    np.testing.assert_array_equal(Camera(task).photograph(prints, 0)[0], wanted)
    _, results = run("printed_photo", task)
    assert results["printed"].clean_accuracy == 1


@pytest.mark.parametrize(("values", "position"), [([0.1, 0.05], 1), ([0.0, 0.1], 0), ([0.5, 2.0], 1)])
def test_epsilons_rise_within_the_range(values: list[float], position: int) -> None:
    with pytest.raises(InvalidArgument) as error:
        run("printed_photo", task_of(printed(epsilons=values)))
    assert error.value.field == f"printed_photo.epsilons[{position}]"
