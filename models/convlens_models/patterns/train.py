"""Trains the embedded model from a seed: ``python -m convlens_models.patterns.train [--out DIR]``.

Every image is drawn once, seen once and thrown away. Without ``--out`` the result becomes the embedded model.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from convlens_models.architectures.patterns import MEAN, STD, Patterns
from convlens_models.importing.embed import embed
from convlens_models.patterns.card import Card, ClassResult
from convlens_models.patterns.draw import LABELS, draw
from convlens_models.patterns.folding import folded, with_batch_norm

HERE = Path(__file__).parent
BUILD = Path("build") / "patterns"
CARD = "card.json"
STEPS, BATCH, THREADS = 3000, 64, 2
CHUNK = 12  # images of each class drawn at a time
PEAK_RATE, MOMENTUM, SMOOTHING = 0.15, 0.9, 0.05
DECAY, FIRST_DECAY = (
    1e-3,
    1e-2,
)  # the first layer's filters are there to be seen: strong decay keeps them clean
TRAINING, HELD_OUT = 0, 1  # first number of every drawing seed: the two never meet
HELD_OUT_IMAGES = 100  # of each class
SAVE_EVERY = 200


def drawings(labels: Sequence[str], count: int, *seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``count`` normalised images of each class, (classes * count, 3, 96, 96), and their class numbers."""
    with ThreadPoolExecutor(THREADS) as pool:
        images = np.concatenate(list(pool.map(lambda label: draw(label, count, seed), labels)))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (torch.from_numpy(images) - mean) / std, torch.arange(len(labels)).repeat_interleave(count)


def batches(labels: Sequence[str], seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless shuffled batches of fresh drawings."""
    shuffle, chunk = torch.Generator().manual_seed(seed), 0
    while True:
        images, targets = drawings(labels, CHUNK, TRAINING, seed, chunk)
        for rows in torch.split(torch.randperm(len(images), generator=shuffle), BATCH):
            yield images[rows].contiguous(memory_format=torch.channels_last), targets[rows]
        chunk += 1


def train(labels: Sequence[str], steps: int, seed: int) -> Iterator[tuple[int, float, float, Patterns]]:
    """SGD with one cycle of the rate; yields (step, loss, accuracy, network in training) after each step."""
    torch.manual_seed(seed)
    net = with_batch_norm(Patterns(len(labels))).train()
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # PyTorch's stubs leave it out
    loss_of = nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
    first = list(net.get_submodule("features.conv1").parameters())
    rest = [p for name, p in net.named_parameters() if not name.startswith("features.conv1.")]
    groups = [{"params": first, "weight_decay": FIRST_DECAY}, {"params": rest, "weight_decay": DECAY}]
    optimiser = torch.optim.SGD(groups, PEAK_RATE, MOMENTUM, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_RATE, total_steps=steps, pct_start=0.2)
    for step, (images, targets) in zip(range(1, steps + 1), batches(labels, seed), strict=False):
        scores = net(images)
        loss = loss_of(scores, targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        yield step, loss.item(), (scores.argmax(1) == targets).float().mean().item(), net


@torch.no_grad()
def confusion(net: Patterns, labels: Sequence[str], count: int, seed: int) -> torch.Tensor:
    """How often each class (row) is taken for each (column), on ``count`` held-out drawings of each."""
    table = torch.zeros(len(labels), len(labels), dtype=torch.long)
    for start in range(0, count, CHUNK):
        images, targets = drawings(labels, min(CHUNK, count - start), HELD_OUT, seed, start)
        guesses = torch.cat([net(part).argmax(1) for part in torch.split(images, BATCH)])
        table.index_put_((targets, guesses), torch.ones_like(targets), accumulate=True)
    return table


def card_of(net: Patterns, seed: int, steps: int, minutes: float) -> Card:
    """The figures of the model card."""
    table = confusion(net, LABELS, HELD_OUT_IMAGES, seed)
    results = {}
    for index, label in enumerate(LABELS):
        wrong = table[index].clone()
        right, wrong[index] = int(wrong[index]), 0
        results[label] = ClassResult(right, LABELS[int(wrong.argmax())] if wrong.any() else "")
    return Card(
        accuracy=float(table.diag().sum() / table.sum()),
        images_per_class=HELD_OUT_IMAGES,
        parameters=sum(p.numel() for p in net.parameters()),
        seed=seed,
        steps=steps,
        images_seen=steps * BATCH,
        minutes=round(minutes, 1),
        classes=results,
    )


def save(net: Patterns, folder: Path) -> None:
    """Write the weights and the class names."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.contiguous() for key, value in net.state_dict().items()}
    save_file(state, folder / "weights.safetensors")
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS))


def main() -> None:
    """Train, report as it goes, and write the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="leave weights, labels and card in this folder instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    folder = options.out or BUILD
    torch.set_num_threads(THREADS)
    began, loss_mean, right_mean = time.monotonic(), 0.0, 0.0
    for step, loss, right, net in train(LABELS, options.steps, options.seed):
        fade = min(0.95, 1 - 1 / step)
        loss_mean, right_mean = fade * loss_mean + (1 - fade) * loss, fade * right_mean + (1 - fade) * right
        if step % 20 == 0 or step == options.steps:
            rate = step * BATCH / (time.monotonic() - began)
            figures = f"loss {loss_mean:.3f} right {right_mean:.1%} {rate:.0f} images/s"
            print(f"step {step}/{options.steps} {figures}", flush=True)
        if step % SAVE_EVERY == 0 or step == options.steps:
            save(folded(net), folder)
    minutes = (time.monotonic() - began) / 60
    card = card_of(folded(net), options.seed, options.steps, minutes)
    card.write(folder / CARD)
    if options.out is None:
        embed(folder)
        card.write(HERE / CARD)
    print(f"held-out accuracy {card.accuracy:.2%} after {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
