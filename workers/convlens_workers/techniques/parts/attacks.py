"""What attacks share: the images and classes of a task, what a classifier says of them, and the certificates.

A classifier is any function from images (N, 3, H, W) in [0, 1] to log-probabilities (N, classes), so that a
defended network is one as well:

    network = classifier(task.network)
    defended = lambda images: network(defence(images))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convlens.v1 import attack_pb2
from convlens_models.manifest import LOG_PROBABILITIES, Manifest
from convlens_models.measures.certificate import AttackGoal, certify
from convlens_workers.techniques.base import FeatureNetwork, Results, State, Task

Classifier = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, slice], Tensor]
"""Values (n) of some of the images, (n, 3, H, W), and which of the batch they are: `labels[which]`."""
GROUP: Final = 800_000
"""Pixels that go through a network at once: they bound the memory of a gradient."""


def stacked(task: Task[Any], field: str) -> Tensor:
    """The pictures of a repeated field, which are of one size, as one batch (N, 3, H, W)."""
    return torch.cat([task.images[f"{field}[{i}]"] for i in range(len(getattr(task.params, field)))])


def class_indices(values: Sequence[int], count: int) -> Tensor:
    """Classes (count), int64, on the CPU, from one value an image or one for all."""
    return torch.tensor(values).expand(count).clone()


def classifier(network: FeatureNetwork) -> Classifier:
    """Log-probabilities (N, classes) of images, within the autograd graph."""
    return lambda images: network.taps(images, [LOG_PROBABILITIES])[LOG_PROBABILITIES]


def cross_entropy(log_probabilities: Tensor, classes: Tensor) -> Tensor:
    """-log P(class) of each image, (N)."""
    return -log_probabilities.gather(1, classes.to(log_probabilities.device)[:, None])[:, 0]


def probabilities(classify: Classifier, images: Tensor) -> Tensor:
    """Probabilities (N, classes), without a graph."""
    with torch.no_grad():
        return torch.cat([classify(images[part]).exp() for part in groups(images)])


def scores(network: FeatureNetwork, manifest: Manifest) -> Classifier:
    """What margins are taken of: log-probabilities, or where classes are independent the logit of each."""
    layer = manifest.output if manifest.independent else LOG_PROBABILITIES
    return lambda images: network.taps(images, [layer])[layer]


def met(goal: AttackGoal, classify: Classifier, images: Tensor) -> Tensor:
    """Whether each image meets the goal of its place, (N)."""
    return torch.from_numpy(goal.met(probabilities(classify, images).cpu().numpy())).to(images.device)


def predicted(classify: Classifier, images: Tensor) -> Tensor:
    """The most probable class of each image, (N), int64."""
    return probabilities(classify, images).argmax(1)


def gradients(images: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
    """Values (N) of `loss` and their gradients (N, 3, H, W); images are taken through it in groups.

    >>> images = torch.rand(2, 3, 4, 4)
    >>> values, gradient = gradients(images, lambda some, which: some.square().sum((1, 2, 3)))
    >>> torch.equal(gradient, 2 * images)
    True
    """
    values: list[Tensor] = []
    parts: list[Tensor] = []
    for part in groups(images):
        some = images[part].detach().requires_grad_()
        with torch.enable_grad():
            value = loss(some, part)
            parts.extend(torch.autograd.grad(value.sum(), some))
        values.append(value.detach())
    return torch.cat(values), torch.cat(parts)


def loss_gradients(classify: Classifier, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """The cross entropy of each image's class, (N), and its gradient, (N, 3, H, W)."""
    return gradients(images, lambda some, which: cross_entropy(classify(some), classes[which]))


def groups(images: Tensor) -> list[slice]:
    """Parts of a batch (N, 3, H, W) that fit through a network at once, in order."""
    size = max(1, GROUP // (images.shape[2] * images.shape[3]))
    return [slice(first, first + size) for first in range(0, len(images), size)]


def share(hits: Tensor) -> float:
    """The share of `hits` that are true."""
    return float(hits.float().mean())


def perturbation(original: Tensor, adversarial: Tensor) -> Tensor:
    """The change ten times enlarged about grey, for eyes; what leaves [0, 1] is cut off."""
    return (0.5 + 10 * (adversarial - original)).clamp(0, 1)


def targeted(classes: Tensor, manifest: Manifest) -> AttackGoal:
    """The goal that every image is taken for its class (N)."""
    return AttackGoal(True, classes.cpu().numpy(), manifest.independent)


def untargeted(classes: Tensor, manifest: Manifest) -> AttackGoal:
    """The goal that no image is taken for its class (N) any more."""
    return AttackGoal(False, classes.cpu().numpy(), manifest.independent)


def certified(
    classify: Classifier,
    manifest: Manifest,
    original: Tensor,
    adversarial: Tensor,
    goal: AttackGoal,
    *,
    queries: int | Sequence[int],
) -> list[attack_pb2.Certificate]:
    """A certificate an image. `queries` as in `certify`; those that certifying takes are not among them."""

    def numbers(images: NDArray[np.float32]) -> NDArray[np.float32]:
        values = probabilities(classify, torch.tensor(images, device=original.device))
        return values.cpu().numpy()

    pictures = original.cpu().numpy()
    return certify(
        numbers,
        manifest.labels,
        pictures,
        adversarial.cpu().numpy(),
        goal,
        before=numbers(pictures),
        queries=queries,
    )


def smallest_changes(
    classify: Classifier, manifest: Manifest, original: Tensor, held: State, goal: AttackGoal
) -> Results:
    """What a search for the smallest change ends with; of its state, `adversarial` and `queries`."""
    adversarial = held["adversarial"]
    certificates = certified(
        classify, manifest, original, adversarial, goal, queries=held["queries"].tolist()
    )
    return {
        "original": original,
        "adversarial": adversarial,
        "perturbation": perturbation(original, adversarial),
        "attack": attack_pb2.AttackResult(certificates=certificates),
    }
