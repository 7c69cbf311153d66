"""Jobs that make pictures, and that train networks which do; the parameters are those of their messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convlens.errors import InvalidArgument
from convlens.v1 import image_pb2, job_pb2, style_pb2
from convlens_client.images import LARGEST_SIDE, ImageLike, ResizeLike, to_image, to_side
from convlens_client.requests.job import Fields, technique
from convlens_client.requests.model import model_ref
from convlens_client.requests.target import Caricature, Of, Target

Visualised = Target | Caricature | Of


@technique(job_pb2.DeepDream)
def deepdream(
    image: ImageLike,
    *,
    guide: ImageLike | None = None,
    mask: ImageLike | None = None,
    resize: ResizeLike | None = "keep",
    **parameters: Any,
) -> Fields:
    """Queues a DeepDream on `image`, of itself or of a `guide`, and only where a `mask` is white.

    `layers` may give each its weight; the other parameters are those of `convlens.v1.DeepDream`. Of the
    `strongest` or `weakest` channels, the report tells which they are.
    """
    return _brought({"guide": guide, "mask": mask})


@technique(job_pb2.FeatureVisualisation, without=["parametrisation"])
def visualise(
    objectives: Sequence[Visualised | Mapping[Visualised, float]],
    *,
    start: ImageLike | None = None,
    pixels: bool = False,
    **parameters: Any,
) -> Fields:
    """Queues pictures that excite each of `objectives`: a target, or several with their weights.

    Beside targets there are `Caricature(layer, image)`, and `ClassScore("tabby").of("alexnet")` for what is
    read from another network. `start` is a picture to start from, `pixels` takes the plain way instead of
    Fourier coefficients. The report tells what each picture shows; with a `collection`, the artifact
    "examples" has what excites each objective most in its images, and the report tells which these are. The
    other parameters are those of `convlens.v1.FeatureVisualisation`.
    """
    return {
        "objectives": [_objective(item) for item in objectives],
        "parametrisation": "pixels" if pixels else "fourier",
    }


@technique(job_pb2.Texture, without=["optimiser"])
def texture(
    sample: ImageLike, *, adam: bool = False, resize: ResizeLike | None = "keep", **parameters: Any
) -> Fields:
    """Queues a picture with the texture of `sample`, by default of its size.

    `layers` may give each its weight; `adam` takes the place of L-BFGS; the other parameters are those of
    `convlens.v1.Texture`.
    """
    return {"optimiser": "adam" if adam else "lbfgs"}


@dataclass(frozen=True)
class Style:
    """A style: its picture, its weight, its masks, and its scale.

    Attributes:
        mask: white where in the result it counts.
        style_mask: white where in its own picture it counts.
        scale: its longer side over the content's.
    """

    image: ImageLike
    weight: float | None = None
    mask: ImageLike | None = None
    style_mask: ImageLike | None = None
    scale: float | None = None


@technique(job_pb2.StyleTransfer, without=["method"])
def style_transfer(
    content: ImageLike,
    styles: Style | ImageLike | Sequence[Style | ImageLike],
    *,
    classic: bool = False,
    initial: ImageLike | None = None,
    size: int | None = None,
    shorter_side: bool = False,
    enlarge: bool = False,
    resize: ResizeLike | None = "keep",
    **parameters: Any,
) -> Fields:
    """Queues `content` in the style of `styles`: pictures, or `Style` with a weight, masks or a scale.

    `size` is that of the result's longer side in pixels, or of its `shorter_side`; content that is smaller
    stays so unless it is to `enlarge`; or `resize` says it all. Styles follow it by their scale.
    `initial` is a picture to start with. `classic` is the way of Gatys et al. (2016) instead of the best one;
    `layers` may give each its weight. The other parameters are those of `convlens.v1.StyleTransfer`.
    """
    sided = to_side(size, shorter=shorter_side, enlarge=enlarge)
    if sided is not None and resize not in ("keep", None):
        raise InvalidArgument.of("resize", resize, "left out beside size")
    return {
        "content": to_image(content, sided or resize, "content"),
        **_brought({"initial": initial}),
        "styles": [_style(style, f"styles[{i}]") for i, style in enumerate(_several(styles))],
        "method": "classic" if classic else "best",
    }


@technique(style_pb2.TrainStyle, without=["shards"])
def train_style(
    style: ImageLike,
    name: str,
    *,
    collection: str | None = None,
    folder: str | None = None,
    preview: ImageLike | None = None,
    preview_resize: ResizeLike | None = None,
    start_from: str | None = None,
    resize: ResizeLike | None = "keep",
    **parameters: Any,
) -> Fields:
    """Queues the training of a style network, which becomes the next version of `name` in the repository.

    It learns from the pictures of a `collection`, or of a `folder` that the operator has allowed under this
    name. The job's `report.model` is what `stylise` takes; the artifact "image" is `preview` painted. `model`
    compares the pictures; `start_from` is a style network, "name" or "name/version", whose training goes on.
    The other parameters are those of `convlens.v1.TrainStyle`.
    """
    if (collection is None) == (folder is None):
        raise InvalidArgument.of("source", "both" if folder else "neither", "one of collection, folder")
    return {
        "preview": None if preview is None else to_image(preview, preview_resize, "preview"),
        "start_from": None if start_from is None else model_ref(start_from),
    }


def _several(styles: Style | ImageLike | Sequence[Style | ImageLike]) -> Sequence[Style | ImageLike]:
    return styles if isinstance(styles, (list, tuple)) else [styles]  # type: ignore[list-item]


def _style(style: Style | ImageLike, field: str) -> job_pb2.Style:
    style = style if isinstance(style, Style) else Style(style)
    pictures = {name: getattr(style, name) for name in ("image", "mask", "style_mask")}
    return job_pb2.Style(weight=style.weight, scale=style.scale, **_brought(pictures, f"{field}."))


def _brought(pictures: Mapping[str, ImageLike | None], path: str = "") -> dict[str, image_pb2.Image | None]:
    """Pictures that the technique brings to size itself; larger ones than the service takes come smaller."""
    return {
        name: None if picture is None else to_image(picture, LARGEST_SIDE, f"{path}{name}")
        for name, picture in pictures.items()
    }


def _objective(item: Visualised | Mapping[Visualised, float]) -> job_pb2.Objective:
    weighted = item if isinstance(item, Mapping) else {item: None}
    return job_pb2.Objective(terms=[_term(what, weight) for what, weight in weighted.items()])


def _term(what: Visualised, weight: float | None) -> job_pb2.WeightedTarget:
    model = model_ref(what.model) if isinstance(what, Of) else None
    what = what.what if isinstance(what, Of) else what
    if isinstance(what, Caricature):
        return job_pb2.WeightedTarget(caricature=what.message(), weight=weight, model=model)
    return job_pb2.WeightedTarget(target=what.message(), weight=weight, model=model)
