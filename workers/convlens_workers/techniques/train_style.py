"""Training of fast style networks, which paint any picture in one pass.

Johnson, Alahi, Fei-Fei: Perceptual losses for real-time style transfer and super-resolution (2016),
arXiv:1603.08155.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

import torch
from torch import Tensor

from convlens.errors import FailedPrecondition
from convlens.v1 import model_pb2, style_pb2
from convlens_models.importing.style_import import MIN_SIZE, add_style
from convlens_models.style_networks import FAST_STYLE, WIDTH, width
from convlens_workers.jobs.techniques.layers import content_layer, layer_weights, style_layers
from convlens_workers.jobs.techniques.train_style import (
    PREVIEW_SIDE,
    SHOWN_EVERY,
    start_from,
    style_size,
)
from convlens_workers.techniques.base import Results, State, Step, Task
from convlens_workers.techniques.parts import distributed_training, image_dataset, ranks
from convlens_workers.techniques.parts.descent import descent
from convlens_workers.techniques.parts.loop import LOSS, Losses, optimise
from convlens_workers.techniques.parts.optimisers import VARIABLE, adam
from convlens_workers.techniques.parts.perceptual import Perceptual
from convlens_workers.techniques.parts.pixels import resize, scaled
from convlens_workers.techniques.parts.style_network import StyleNetwork

Params = style_pb2.TrainStyle
ORDER: Final = "order"
"""The pictures that are still to come in this round, shuffled."""
TAKEN: Final = "optimiser.step"
"""Adam's count of its steps."""
EXPECTED_FALL: Final = 0.5
"""Of the loss, which starts with pictures of random weights."""


def train_style(task: Task[Params], state: State | None = None) -> Generator[Step, None, Results]:
    """A network that paints what it is given in the style of one picture, put into the model repository.

    Minimises, over crops x of many pictures and with the painted y = f(x),

        sum_l w_l |G_l(y) - G_l(style)|^2 / |G_l(style)|^2
            + content_weight |F(y) - F(x)|^2 / |F(x)|^2 + tv_weight tv(y)

    by Adam, where G are Gram matrices and F the features of the content layer, each the mean over the batch.
    Every picture is seen once before any is seen again. Where there are several GPUs, they share each batch.
    With `start_from` the first weights are those of that network, which the new version names as its parent.

    Returns:
        "image", the preview painted; "train_style", which names the network in the repository; and
        "descent".

    Raises:
        FailedPrecondition: no picture that can be read, or a worker without a model repository.
        NotFound: the collection was deleted meanwhile.
    """
    root = task.host.networks.repository.root
    if root is None:
        raise FailedPrecondition("this worker has no model repository of its own to put the network in")
    training = Training(task)
    if (count := distributed_training.processes(task.params.batch, task.device)) > 1:
        last = yield from distributed_training.follow(Training, task, state, count)
        last = {name: value.to(task.device) for name, value in last.items()}
    else:
        last = yield from optimise([training], state, task.seed, task.device)
    weights = {name: value.cpu().contiguous() for name, value in training.weights(last).items()}
    manifest = add_style(
        root, weights, task.params.name, architecture=training.architecture, parent=training.parent
    )
    model = model_pb2.ModelRef(name=manifest.name, version=manifest.version)
    report = style_pb2.TrainStyleReport(model=model)
    return {"image": training.paint(last), "train_style": report, **descent(last, EXPECTED_FALL)}


class Training:
    """The one stage of the loop; what it changes are the weights of the network.

    Attributes:
        architecture: that the network has in the repository.
        parent: the version that it goes on from, "name/version"; empty for random weights.
    """

    def __init__(self, task: Task[Params]) -> None:
        params = task.params
        self.steps = params.steps
        self._params, self._device = params, task.device
        self._origin = start_from(params, task.host.networks.repository)
        self.architecture, self.parent, channels = FAST_STYLE, "", params.width or WIDTH
        if self._origin:
            known = self._origin.manifest
            self.architecture, self.parent = known.architecture, f"{known.name}/{known.version}"
            channels = width(self._origin)
        self._style_network = StyleNetwork(channels, self.architecture)
        self._adam = adam(params.learning_rate)
        self._dataset = _dataset(task)
        self._losses = Perceptual(
            task.network,
            _style(task),
            layers=layer_weights(params, task.manifest, style_layers),
            content_layer=params.content_layer or content_layer(task.manifest),
            weights={"style": 1.0, "content": params.content_weight, "tv": params.tv_weight},
        )
        self._preview = task.images["preview"] if "preview" in task.images else self._first()
        self._shown: Tensor | None = None

    def start(self, _last: State, rng: torch.Generator) -> State:
        """The weights of the network that it goes on from, else random ones."""
        if self._origin:
            known = {name: torch.tensor(value) for name, value in self._origin.weights().items()}
            weights = self._style_network.vector(known).to(self._device)
        else:
            weights = self._style_network.begin(rng).to(self._device)
        return {VARIABLE: weights, ORDER: torch.empty(0, dtype=torch.int64)}

    def advance(self, held: State, rng: torch.Generator) -> tuple[State, Losses]:
        """One step of Adam on the next pictures."""
        crops, order = self._draw(held[ORDER].cpu(), rng)

        def evaluate(vector: Tensor) -> tuple[Tensor, Losses]:
            painted = self._style_network.paint(ranks.shared(vector), crops)
            loss, terms = self._losses(painted, crops)
            return loss, {LOSS: loss, **terms}

        after, losses = self._adam.step(held, evaluate)
        return {**after, ORDER: order}, {name: ranks.mean(value) for name, value in losses.items()}

    def picture(self, held: State) -> Tensor:
        """The preview, painted anew every now and then."""
        taken = int(held[TAKEN])
        if self._shown is None or taken % SHOWN_EVERY == 0 or taken == self.steps:
            self._shown = self.paint(held)
        return self._shown

    def paint(self, held: State) -> Tensor:
        """The preview as the network paints it."""
        with torch.no_grad():
            return self._style_network.paint(held[VARIABLE], self._preview).clamp(0, 1)

    def weights(self, held: State) -> State:
        """The weights of the network by the keys of its `state_dict`."""
        return self._style_network.weights(held[VARIABLE])

    def _draw(self, order: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """The crops of this step, or this process's share of them, and what is still to come."""
        wanted = self._params.batch
        while len(order) < wanted:
            order = torch.cat([order, torch.randperm(len(self._dataset), generator=rng)])
        where = torch.rand(wanted, image_dataset.WHERE, generator=rng)
        mine = slice(ranks.rank(), wanted, ranks.count())
        drawn = zip(order[:wanted][mine].tolist(), where[mine].tolist(), strict=True)
        crops = [self._dataset.crop(number, self._params.size, place) for number, place in drawn]
        return torch.stack(crops).to(self._device), order[wanted:].clone()

    def _first(self) -> Tensor:
        """The first picture to learn from, (1, 3, H, W), as large as the network needs it."""
        image = self._dataset.picture(0, PREVIEW_SIDE)[None].to(self._device)
        return scaled(image, 1.0, least=MIN_SIZE)


def _dataset(task: Task[Params]) -> image_dataset.ImageDataset:
    """The pictures that the task learns from."""
    params = task.params
    if params.WhichOneof("source") == "collection":
        return image_dataset.collection_dataset(task.collections, params.collection, params.shards)
    return image_dataset.folder_dataset(task.host.folders[params.folder], params.folder)


def _style(task: Task[Params]) -> Tensor:
    """The style's picture at the size at which it is learned."""
    style = task.images["style"]
    size = (style.shape[2], style.shape[3])
    return resize(style, style_size(task.params, size, task.manifest))
