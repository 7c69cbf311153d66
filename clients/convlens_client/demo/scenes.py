"""The scenes of the demo: each makes one call of ConvLens and shows what came."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from PIL import Image

from convlens.errors import Internal
from convlens_client import rendering
from convlens_client.cli.attack import triple
from convlens_client.cli.common import percent
from convlens_client.client import Client
from convlens_client.demo.page import Figure, Section
from convlens_client.demo.photos import Photo
from convlens_client.rendering import Picture
from convlens_client.requests.target import ClassScore
from convlens_client.results import Certificate, JobMetadata, Layer, Model

T = TypeVar("T")

EPSILON: Final = 8 / 255
DREAM_SIDE: Final = 400
DREAM: Final = "dream.png"
SALIENCY: Final = ("gradient", "guided_backprop", "deconvnet")
PREVIEWS: Final = 4
NAMED: Final = 12
"""Classes that the card names, at most about."""
KNOWN: Final = {
    "efficientnet_lite0": "The default network where the extra imagenet is installed: small, and trained on "
    "the million photos of ImageNet, in {} classes.",
    "patterns": "The network that comes with ConvLens. It has only ever seen drawings that a program "
    "made, in {} classes, and never a photo. The extra imagenet brings one for photos.",
}
"""What networks have seen, by architecture."""


@dataclass(frozen=True)
class Stage:
    """The client, the model, the photos and the folder that all scenes use."""

    client: Client
    model: Model
    photos: list[Photo]
    folder: Path

    @property
    def photo(self) -> Picture:
        """The first photo as the network sees it."""
        return self.photos[0].square(self.model.input_size)

    def show(self, file: str, caption: str, picture: Picture) -> Figure:
        """Writes a picture for the page."""
        Image.fromarray(picture).save(self.folder / file)
        return Figure(file, caption)


Scene = Callable[[Stage], Section]


def card(stage: Stage) -> Section:
    """The model's facts."""
    model, times = _timed(lambda: stage.client.get_model(stage.model.name))
    facts = {
        "Name": f"{model.name}, version {model.version} ({model.architecture}, run by {model.engine})",
        "Input": f"{model.input_size} x {model.input_size} pixels"
        + (", other sizes accepted" if model.dynamic_size else ""),
        "Weights": f"{model.parameters:,}",
        "Work": f"{model.multiply_adds / 1e6:,.0f} million multiply-adds an image",
        "Layers": f"{len(model.layers)} that can be looked into",
        "Classes": f"{len(model.labels)}: {', '.join(_some(model.labels))}",
        "Files": f"sha256 {model.digest}",
    }
    text = KNOWN.get(model.architecture, KNOWN["patterns"]).format(len(model.labels))
    return Section("The network", text, rows=list(facts.items()), milliseconds=times)


def filters(stage: Stage) -> Section:
    """The filters of the first layer."""
    weights, times = _timed(lambda: stage.client.filters(model=stage.model.name))
    figure = stage.show("filters.png", "first-layer filters", rendering.kernels(weights, tile=56))
    text = (
        f"The {len(weights)} filters of the first layer, each scaled to its own range. Light and dark sides "
        "are edges in different directions, and two colours side by side are colour contrasts."
    )
    return Section("What the first layer looks for", text, [figure], milliseconds=times)


def classify(stage: Stage) -> Section:
    """Several photos classified in one call."""
    squares = [photo.square(stage.model.input_size) for photo in stage.photos]
    answers, times = _timed(lambda: stage.client.classify(squares, top_k=2, model=stage.model.name))
    pictures = [
        ("\n".join([photo.title, *map(percent, answer.predictions)]), square)
        for photo, square, answer in zip(stage.photos, squares, answers, strict=True)
    ]
    figure = stage.show("classify.png", "photos with their classes", rendering.sheet(pictures, 170))
    text = (
        "Photos, cut to the size of the network's input, with the two best classes of each. A network that "
        "has no class for what it sees has to guess."
    )
    return Section("What it takes photos for", text, [figure], milliseconds=times)


def activations(stage: Stage) -> Section:
    """Feature maps at three depths."""
    layers = _depths(stage.model)
    names = [layer.name for layer in layers]
    values, times = _timed(lambda: stage.client.activations(stage.photo, names, model=stage.model.name))
    figures = [
        stage.show(
            f"activations-{i}.png",
            f"{layer.name}: {layer.shape[0]} channels of {layer.shape[1]} x {layer.shape[2]}",
            rendering.feature_maps(values[layer.name][0][:48], tile=48),
        )
        for i, layer in enumerate(layers, 1)
    ]
    seen = ", then ".join(f"{layer.name} (sees {layer.receptive_field} px)" for layer in layers)
    text = (
        f"The first photo inside the network, one tile a channel, black where it is silent: {seen}. Early "
        "maps are outlines; later ones are coarse and answer to whole parts."
    )
    return Section("What its layers respond to", text, figures, milliseconds=times)


def saliency(stage: Stage) -> Section:
    """Three saliency maps beside the photo."""
    asked: list[tuple[Any, ClassScore]] = [(technique, ClassScore()) for technique in SALIENCY]
    maps, times = _timed(lambda: stage.client.attribute_all(stage.photo, asked, model=stage.model.name))
    if not all(np.abs(item.map).max() > 0 for item in maps):
        raise Internal("a saliency map is empty")
    label = stage.model.labels[maps[0].class_indices[0]]
    named = [(name.replace("_", " "), item.map[0]) for name, item in zip(SALIENCY, maps, strict=True)]
    signed = [("photo", stage.photo), *((name, rendering.signed(values)) for name, values in named)]
    strength = [
        ("", stage.photo),
        *((f"{name}, largest |channel|", rendering.magnitude(m)) for name, m in named),
    ]
    figures = [
        stage.show("saliency-signed.png", "signed saliency maps", rendering.sheet(signed, 220)),
        stage.show("saliency-strength.png", "strength of the saliency", rendering.sheet(strength, 220)),
    ]
    text = (
        f"Which pixels would change the score of “{label}” most: the plain gradient, guided backprop and "
        "deconvnet. They differ only in what a ReLU lets through on the way back. In the upper row grey "
        "means no influence; in the lower one bright means much."
    )
    return Section("What the decision rests on", text, figures, milliseconds=times)


def attack(stage: Stage) -> Section:
    """Adversarial images and their certificates."""
    squares = [photo.square(stage.model.input_size) for photo in stage.photos]
    outcome, times = _timed(lambda: stage.client.attack(squares, epsilon=EPSILON, model=stage.model.name))
    if max(certificate.linf for certificate in outcome.certificates) > EPSILON + 1e-6:
        raise Internal("the attack changed a pixel by more than it may")
    clearest = max(range(len(squares)), key=lambda i: _clarity(outcome.certificates[i]))
    figure = stage.show(
        "attack.png", "photo, sign of the gradient, adversarial image", triple(outcome, clearest)
    )
    rows = [
        (photo.title, *map(percent, (certificate.before, certificate.after, certificate.after_encoding)))
        for photo, certificate in zip(stage.photos, outcome.certificates, strict=True)
    ]
    text = (
        f"One step of the fast gradient sign method moves every pixel by at most {EPSILON * 255:.0f} of 255 "
        "steps, which a person hardly sees. The reply says by measurement what the network takes each photo "
        "for then, and once more after rounding to a PNG file."
    )
    return Section("How to fool it", text, [figure], ("", "before", "after", "after as PNG"), rows, times)


def dream(stage: Stage) -> Section:
    """A DeepDream, followed to its end."""
    photo = stage.photos[0].fit(DREAM_SIDE)
    start = time.perf_counter()
    operation = stage.client.deepdream(photo, model=stage.model.name)
    seen = list(_told(operation.watch()))
    (image,) = operation.result().values()
    times = {"from submission to the picture": (time.perf_counter() - start) * 1e3}
    dreamt = rendering.photo(image[0] if image.ndim == 4 else image)
    if np.abs(dreamt.astype(int) - photo).mean() < 1:
        raise Internal("the dream changed nothing")
    figures = [
        stage.show(DREAM, "the dream", dreamt),
        stage.show("dream-steps.png", "on the way", rendering.sheet(_previews(photo, seen), 150)),
    ]
    last = seen[-1]
    text = (
        f"DeepDream, a job on a worker ({last.device}): {last.step} steps over several scales amplify what "
        "layers in the middle of the network respond to. Below, previews that the job sent while it ran."
    )
    return Section("What it dreams of", text, figures, milliseconds=times)


def overview(stage: Stage) -> Section:
    """The first photo, what its class rests on, an adversarial image and the dream, side by side."""
    photo, model = stage.photo, stage.model.name
    start = time.perf_counter()
    saliency = stage.client.attribute(photo, "guided_backprop", model=model)
    attacked = stage.client.attack(photo, "pgd", epsilon=EPSILON, model=model)
    times = {"both calls": (time.perf_counter() - start) * 1e3}
    before, after = (getattr(attacked.certificates[0], name) for name in ("before", "after_encoding"))
    with Image.open(stage.folder / DREAM) as image:
        dreamt = Photo("", np.asarray(image)).square(stage.model.input_size)
    tiles = [
        (percent(before), photo),
        ("guided backprop", rendering.signed(saliency.map[0])),
        (f"after an attack: {percent(after)}", rendering.photo(attacked.adversarial[0])),
        ("a dream", dreamt),
    ]
    figure = stage.show("overview.jpg", "photo, saliency, attack and dream", rendering.sheet(tiles, 260))
    text = f"The same photo four times, on {model}; ConvLens's README begins with this picture."
    return Section("At a glance", text, [figure], milliseconds=times)


SCENES: Final[dict[str, Scene]] = {
    "the model's card": card,
    "first-layer filters": filters,
    "classification": classify,
    "activations of three layers": activations,
    "three saliency maps": saliency,
    "an adversarial image": attack,
    "a DeepDream": dream,
    "all at a glance": overview,
}


def _some(labels: Sequence[str]) -> list[str]:
    """The labels, or some of them where they are many."""
    shown = labels[:: max(1, len(labels) // NAMED)]
    return [*shown, *["..."] * (len(shown) < len(labels))]


def _timed(call: Callable[[], T]) -> tuple[T, dict[str, float]]:
    """What a call returns, and how long it took, at first and again."""
    times = {}
    for turn in ("first call", "again"):
        start = time.perf_counter()
        result = call()
        times[turn] = (time.perf_counter() - start) * 1e3
    return result, times


def _clarity(certificate: Certificate) -> tuple[bool, float]:
    """Fooled photos come before others, and among them those that the network had been sure of."""
    return certificate.success_after_encoding, certificate.before.probability


def _depths(model: Model) -> list[Layer]:
    """A layer with maps early in the network, one in the middle and one late."""
    layers = [layer for layer in model.layers if layer.kind in ("Relu", "Relu6") and len(layer.shape) == 3]
    return [layers[0], layers[len(layers) // 2], layers[-1]]


def _told(events: Iterator[JobMetadata]) -> Iterator[JobMetadata]:
    """The same events; says every ten steps how far the job is."""
    due = 0
    for metadata in events:
        if metadata.final or metadata.step >= due:
            print(f"      {metadata.state.lower()}, step {metadata.step}", flush=True)
            due = metadata.step + 10
        yield metadata


def _previews(photo: Picture, seen: list[JobMetadata]) -> list[tuple[str, Picture]]:
    """The photo and some of the previews, in order."""
    shown = [metadata for metadata in seen if metadata.preview]
    step = max(1, len(shown) // PREVIEWS)
    pictures = [("the photo", photo)]
    for metadata in shown[step - 1 :: step][:PREVIEWS]:
        with Image.open(io.BytesIO(metadata.preview)) as image:
            pictures.append((f"step {metadata.step}", np.asarray(image.convert("RGB"))))
    return pictures
