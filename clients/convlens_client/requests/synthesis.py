"""Jobs that make pictures, and that train networks which do; the parameters are those of their messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convlens.errors import InvalidArgument
from convlens.v1 import job_pb2, style_pb2
from convlens_client.images import LARGEST_SIDE, ImageLike, ResizeLike, to_image
from convlens_client.requests.job import Fields, technique
from convlens_client.requests.target import Target


@technique(job_pb2.DeepDream)
def deepdream(
    image: ImageLike, *, guide: ImageLike | None = None, resize: ResizeLike | None = "keep", **parameters: Any
) -> Fields:
    """Queues a DeepDream on `image`, of itself or of a `guide`; the parameters are those of `DeepDream`."""
    return {"guide": None if guide is None else to_image(guide, LARGEST_SIDE, "guide")}


@technique(job_pb2.FeatureVisualisation, without=["parametrisation"])
def visualise(
    objectives: Sequence[Target | Mapping[Target, float]], *, pixels: bool = False, **parameters: Any
) -> Fields:
    """Queues pictures that excite each of `objectives`: a target, or several with their weights.

    `pixels` takes the plain way instead of Fourier coefficients. With a `collection`, the artifact "examples"
    has what excites each objective most in its images, and the report tells which these are. The other
    parameters are those of `convlens.v1.FeatureVisualisation`.
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
    """A style: its picture, its weight, and a mask that is white where in the result it counts."""

    image: ImageLike
    weight: float | None = None
    mask: ImageLike | None = None


@technique(job_pb2.StyleTransfer, without=["method"])
def style_transfer(
    content: ImageLike,
    styles: Style | ImageLike | Sequence[Style | ImageLike],
    *,
    classic: bool = False,
    resize: ResizeLike | None = "keep",
    **parameters: Any,
) -> Fields:
    """Queues `content` in the style of `styles`: pictures, or `Style` with a weight or a mask.

    The other parameters are those of `convlens.v1.StyleTransfer`.
    `classic` is the way of Gatys et al. (2016) instead of the best one; `layers` may give each its weight.
    """
    return {
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
    resize: ResizeLike | None = "keep",
    **parameters: Any,
) -> Fields:
    """Queues the training of a style network, which becomes the next version of `name` in the repository.

    It learns from the pictures of a `collection`, or of a `folder` that the operator has allowed under this
    name. The job's `report.model` is what `stylise` takes; the artifact "image" is `preview` painted. `model`
    compares the pictures; the other parameters are those of `convlens.v1.TrainStyle`.
    """
    if (collection is None) == (folder is None):
        raise InvalidArgument.of("source", "both" if folder else "neither", "one of collection, folder")
    return {"preview": None if preview is None else to_image(preview, preview_resize, "preview")}


def _several(styles: Style | ImageLike | Sequence[Style | ImageLike]) -> Sequence[Style | ImageLike]:
    return styles if isinstance(styles, (list, tuple)) else [styles]  # type: ignore[list-item]


def _style(style: Style | ImageLike, field: str) -> job_pb2.Style:
    style = style if isinstance(style, Style) else Style(style)
    mask = None if style.mask is None else to_image(style.mask, LARGEST_SIDE, f"{field}.mask")
    image = to_image(style.image, LARGEST_SIDE, f"{field}.image")
    return job_pb2.Style(image=image, weight=style.weight, mask=mask)


def _objective(item: Target | Mapping[Target, float]) -> job_pb2.Objective:
    weighted = item if isinstance(item, Mapping) else {item: None}
    return job_pb2.Objective(
        terms=[
            job_pb2.WeightedTarget(target=target.message(), weight=weight)
            for target, weight in weighted.items()
        ]
    )
