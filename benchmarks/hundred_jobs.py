"""A hundred jobs on other people's pictures, through a real server and worker: sheets to look at, a table.

python -m benchmarks.hundred_jobs [FAMILY ...] [--out hundred-jobs] [--side 192]

Writes for each family a contact sheet, FAMILY.png, of what the command line would have written of each job,
and to table.md a row a job: what was asked, how it ended, seconds, and what the job says of itself. The
verdict is left to whoever looks at the sheets.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks.smallest_change import DATA, NAME, repository
from convlens.errors import ConvLensError
from convlens_client import Caricature, Channel, ClassScore, Client, Operation, Style
from convlens_client.cli.outcomes import write_outcome
from convlens_client.contact_sheet import Tile, contact_sheet
from convlens_client.up import Plan, running

ACROSS = 4
"""Pictures in a row of a sheet."""
SEEN = 300
"""Side of a picture in a sheet, in pixels."""
PHOTOS = sorted((DATA / "photos").iterdir())
CONTENTS = sorted((DATA / "contents").iterdir())
STYLES = sorted((DATA / "styles").iterdir())
TEXTURES = sorted((DATA / "textures").iterdir())
LABELS = [int(photo.name[:4]) for photo in PHOTOS]
NAMES = [line.split("\t")[-1] for line in (DATA / "models" / "imagenet_labels.tsv").read_text().splitlines()]


class Asked(NamedTuple):
    """A job: what is said of it, and what submits it."""

    caption: str
    submit: Callable[[Client], Operation]


def small(path: Path, side: int) -> Image.Image:
    """A picture with a longer side of `side` pixels."""
    picture = Image.open(path).convert("RGB")
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return picture


def cut(path: Path, side: int) -> Image.Image:
    """The middle of a texture as it is: one that is shrunk has other grains."""
    picture = Image.open(path).convert("RGB")
    left, top = ((extent - side) // 2 for extent in picture.size)
    return picture.crop((left, top, left + side, top + side))


def dreams(side: int) -> Iterator[Asked]:
    """Contents and photos by default, low and high layers, a guide, a smoothed gradient."""
    variants: dict[str, dict[str, Any]] = {
        "default": {},
        "low layer": {"layers": ["features.3"]},
        "high layer": {"layers": ["features.12"]},
        "laplacian": {"laplacian": 3},
    }
    for path, (name, options) in product((*CONTENTS[:4], PHOTOS[0]), variants.items()):
        yield Asked(f"dream {path.stem}: {name}", _with(Client.deepdream, small(path, side), **options))
    cat, bridge = small(CONTENTS[1], side), small(CONTENTS[3], side)
    mask = Image.radial_gradient("L").point(lambda value: 255 - value)
    others: dict[str, dict[str, Any]] = {
        "guided": {"guide": small(PHOTOS[40], side)},
        "masked": {"mask": mask},
        "own colours": {"keep_colours": True},
        "weakest channels": {"layers": ["features.7"], "weakest": 4},
    }
    for (name, options), picture in product(others.items(), (cat, bridge)):
        yield Asked(f"dream: {name}", _with(Client.deepdream, picture, **options))


def visualisations(side: int) -> Iterator[Asked]:
    """Classes, channels of several depths, without and with Fourier coefficients."""
    classes = [1, 99, 250, 291, 417, 508, 645, 859, 963, 980]
    for index in classes:
        options = {"size": side, "steps": 192}
        yield Asked(NAMES[index], _with(Client.visualise, [ClassScore(index)], **options))
    for layer, channel in product(("features.3", "features.7", "features.12"), (3, 17, 40)):
        target = Channel(layer, channel)
        yield Asked(f"{layer}:{channel}", _with(Client.visualise, [target], size=side, steps=128))
    for path in CONTENTS[:2]:
        target = Caricature("features.7", small(path, side))
        yield Asked(f"caricature {path.stem}", _with(Client.visualise, [target], size=side, steps=128))
    start = {"start": small(CONTENTS[1], side), "height": side // 2, "width": side}
    yield Asked("tabby from the cat", _with(Client.visualise, [ClassScore(281)], steps=96, **start))
    for index in (99, 963):
        target = [ClassScore(index)]
        yield Asked(f"{NAMES[index]}, pixels", _with(Client.visualise, target, size=side, pixels=True))


def textures(side: int) -> Iterator[Asked]:
    """Each sample by both optimisers, three seeds of one, and one with edges that fit."""
    for path, adam in product(TEXTURES, (False, True)):
        options = {"adam": adam, "height": side, "width": side, "steps": 120}
        name = f"texture {path.stem}: {'Adam' if adam else 'L-BFGS'}"
        yield Asked(name, _with(Client.texture, cut(path, side), **options))
    pebbles = cut(DATA / "textures" / "pebbles.jpg", side)
    for seed in (1, 2, 3):
        yield Asked(f"pebbles, seed {seed}", _with(Client.texture, pebbles, seed=seed, steps=120))
    yield Asked("pebbles, seamless", _with(Client.texture, pebbles, seamless=True, steps=120))


def styles(side: int) -> Iterator[Asked]:
    """Contents in styles, both methods, the content's colours, and two styles at once."""
    steps = {"first_steps": 250, "steps": 150}
    for content, style in zip(CONTENTS * 2, STYLES + STYLES[1:] + STYLES[:1], strict=True):
        name = f"{content.stem} as {style.stem}"
        pictures = small(content, side), small(style, side)
        yield Asked(name, _with(Client.style_transfer, *pictures, **steps))
    for content, style in zip(CONTENTS, STYLES[2:] + STYLES[:2], strict=True):
        name = f"{content.stem} as {style.stem}: classic"
        pictures = small(content, side), small(style, side)
        yield Asked(name, _with(Client.style_transfer, *pictures, classic=True, first_steps=200))
    tubingen, (wave, night) = small(CONTENTS[4], side), (small(STYLES[4], side), small(STYLES[2], side))
    for colours in ("luminance", "covariance"):
        options = {"colours": colours, **steps}
        yield Asked(f"tubingen, {colours}", _with(Client.style_transfer, tubingen, wave, **options))
    both = [Style(wave, 1), Style(night, 2)]
    yield Asked("tubingen, two styles", _with(Client.style_transfer, tubingen, both, **steps))
    for scale in (0.5, 2.0):
        style = Style(night, scale=scale)
        yield Asked(f"style scale {scale}", _with(Client.style_transfer, tubingen, style, **steps))
    half = Image.new("L", tubingen.size)
    half.paste(255, (0, 0, tubingen.width // 2, tubingen.height))
    yield Asked("left half", _with(Client.style_transfer, tubingen, Style(wave, mask=half), **steps))
    yield Asked("from grey", _with(Client.style_transfer, tubingen, night, start="grey", **steps))


def attacks(_side: int) -> Iterator[Asked]:
    """The attacks on one photo or two, towards fixed classes; the small figures, not the pictures, differ."""
    for number in range(0, 40, 5):
        photo, target = [PHOTOS[number]], [(LABELS[number] + 313) % 1000]
        yield Asked(f"L-BFGS {photo[0].stem}", _with(Client.lbfgs_attack, photo, target))
        yield Asked(f"C&W {photo[0].stem}", _with(Client.carlini_wagner, photo, targets=target))
    for number in (3, 50):
        photo, target = [PHOTOS[number]], [(LABELS[number] + 313) % 1000]
        options = {"steps": 40, "samples": 8}
        yield Asked(
            f"expectation {photo[0].stem}", _with(Client.expectation_attack, photo, target, **options)
        )
    patch = _with(Client.adversarial_patch, PHOTOS[:20], 859, held_out=PHOTOS[20:25], steps=30)
    yield Asked("patch: toaster", patch)
    yield Asked("printed photo", _with(Client.printed_photo, PHOTOS[60:62], LABELS[60:62], steps=10))
    for defence in ("bit_depth", "jpeg", "total_variation"):
        yield Asked(defence, _with(Client.defence_attack, PHOTOS[:4], LABELS[:4], defence, steps=10))
    yield Asked("ensemble", _with(Client.attack_ensemble, PHOTOS[:6], LABELS[:6], steps=10))


FAMILIES: dict[str, Callable[[int], Iterator[Asked]]] = {
    "dreams": dreams,
    "visualisations": visualisations,
    "textures": textures,
    "styles": styles,
    "attacks": attacks,
}


def _with(method: Callable[..., Operation], *arguments: Any, **options: Any) -> Callable[[Client], Operation]:
    return lambda client: method(client, *arguments, model=NAME, **options)


def play(client: Client, family: str, side: int, folder: Path) -> list[str]:
    """Run the jobs of a family, write its sheet, and return its rows of the table."""
    tiles, rows = [], []
    for asked in FAMILIES[family](side):
        began, picture, said = time.monotonic(), np.zeros((8, 8, 3), np.uint8), ""
        path = folder / f"{family}-{len(tiles):02}.png"
        try:
            operation = asked.submit(client)
            operation.wait()
            operation.result()
            write_outcome(operation, path)
            picture = np.asarray(Image.open(path).convert("RGB"))
            state, said = "SUCCEEDED", "; ".join(operation._state.warnings)
        except ConvLensError as error:
            state, said = type(error).__name__, str(error)
        seconds = time.monotonic() - began
        rows.append(f"| {family} | {asked.caption} | {state} | {seconds:.0f} | {said} | |")
        print(rows[-1], flush=True)
        tiles.append(Tile(asked.caption, picture))
    remaining = iter(tiles)
    sheet = contact_sheet(list(iter(lambda: list(islice(remaining, ACROSS)), [])), SEEN)
    Image.fromarray(sheet).save(folder / f"{family}.png")
    return rows


def main() -> None:
    """Run the families that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=", ".join(FAMILIES))
    parser.add_argument("--out", type=Path, default=Path("hundred-jobs"))
    parser.add_argument("--side", type=int, default=192)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = ["| family | asked | ended | seconds | said | verdict |", "|---|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as scratch:
        models = Path(scratch) / "models"
        repository(models)
        plan = Plan("127.0.0.1:0", data=Path(scratch) / "data", models=models)
        with running(plan) as machine, Client(machine.address) as client:
            for family in options.families or FAMILIES:
                rows += play(client, family, options.side, options.out)
                (options.out / "table.md").write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
