"""Jobs that make pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from convlens.v1 import job_pb2
from convlens_client.calls import Call
from convlens_client.choice import chosen
from convlens_client.images import ImageLike, ResizeLike, to_image
from convlens_client.requests.job import submit
from convlens_client.requests.target import Target
from convlens_client.results import Snapshot


def deepdream(
    image: ImageLike,
    *,
    layers: str | Sequence[str] = (),
    octaves: int | None = None,
    octave_scale: float | None = None,
    steps: int | None = None,
    step_size: float | None = None,
    jitter: int | None = None,
    channels: Sequence[int] = (),
    guide: ImageLike | None = None,
    tile: int | None = None,
    laplacian: int | None = None,
    frames: int | None = None,
    zoom: float | None = None,
    frame_rate: float | None = None,
    seed: int | None = None,
    model: str = "",
    resize: ResizeLike | None = "keep",
    request_id: str = "",
) -> Call[Snapshot]:
    """Queues a DeepDream on `image`; the parameters are those of `convlens.v1.DeepDream`."""
    technique = job_pb2.DeepDream(
        image=to_image(image, resize),
        layers=[layers] if isinstance(layers, str) else layers,
        octaves=octaves,
        octave_scale=octave_scale,
        steps=steps,
        step_size=step_size,
        jitter=jitter,
        channels=channels,
        guide=None if guide is None else to_image(guide, "keep", "guide"),
        tile=tile,
        laplacian=laplacian,
        frames=frames,
        zoom=zoom,
        frame_rate=frame_rate,
    )
    return submit(technique, model=model, seed=seed, request_id=request_id)


def visualise(
    objectives: Sequence[Target | Mapping[Target, float]],
    *,
    variants: int | None = None,
    diversity: float | None = None,
    size: int | None = None,
    steps: int | None = None,
    pixels: bool = False,
    learning_rate: float | None = None,
    decay: float | None = None,
    blur_every: int | None = None,
    collection: str = "",
    examples: int | None = None,
    seed: int | None = None,
    model: str = "",
    request_id: str = "",
) -> Call[Snapshot]:
    """Queues pictures that excite each of `objectives`: a target, or several with their weights.

    `pixels` takes the plain way instead of Fourier coefficients. With a `collection`, the artifact "examples"
    has what excites each objective most in its images, and the report tells which these are. The other
    parameters are those of `convlens.v1.FeatureVisualisation`.
    """
    technique = job_pb2.FeatureVisualisation(
        objectives=[_objective(item) for item in objectives],
        variants=variants,
        diversity=diversity,
        size=size,
        steps=steps,
        parametrisation=job_pb2.PARAMETRISATION_PIXELS if pixels else job_pb2.PARAMETRISATION_FOURIER,
        learning_rate=learning_rate,
        decay=decay,
        blur_every=blur_every,
        collection=collection,
        examples=examples,
    )
    return submit(technique, model=model, seed=seed, request_id=request_id)


def texture(
    sample: ImageLike,
    *,
    height: int | None = None,
    width: int | None = None,
    layers: Mapping[str, float] | Sequence[str] = (),
    steps: int | None = None,
    scales: int | None = None,
    adam: bool = False,
    learning_rate: float | None = None,
    max_pooling: bool = False,
    seamless: bool = False,
    keep_colours: bool = False,
    seed: int | None = None,
    model: str = "",
    resize: ResizeLike | None = "keep",
    request_id: str = "",
) -> Call[Snapshot]:
    """Queues a picture with the texture of `sample`, by default of its size.

    `layers` may give each its weight; `adam` takes the place of L-BFGS; the other parameters are those of
    `convlens.v1.Texture`.
    """
    technique = job_pb2.Texture(
        sample=to_image(sample, resize, "sample"),
        height=height,
        width=width,
        layers=layers,
        weights=layers.values() if isinstance(layers, Mapping) else (),
        steps=steps,
        scales=scales,
        optimiser=job_pb2.OPTIMISER_ADAM if adam else job_pb2.OPTIMISER_LBFGS,
        learning_rate=learning_rate,
        max_pooling=max_pooling,
        seamless=seamless,
        keep_colours=keep_colours,
    )
    return submit(technique, model=model, seed=seed, request_id=request_id)


@dataclass(frozen=True)
class Style:
    """A style: its picture, its weight, and a mask that is white where in the result it counts."""

    image: ImageLike
    weight: float | None = None
    mask: ImageLike | None = None


Colours = Literal["style", "luminance", "covariance"]
COLOURS: dict[str, job_pb2.Colours.ValueType] = {
    "style": job_pb2.COLOURS_STYLE,
    "luminance": job_pb2.COLOURS_LUMINANCE,
    "covariance": job_pb2.COLOURS_COVARIANCE,
}


def style_transfer(
    content: ImageLike,
    styles: Sequence[Style],
    *,
    classic: bool = False,
    layers: Mapping[str, float] | Sequence[str] = (),
    content_layer: str = "",
    content_weight: float | None = None,
    tv_weight: float | None = None,
    first_steps: int | None = None,
    steps: int | None = None,
    smallest: int | None = None,
    learning_rate: float | None = None,
    noise_start: bool = False,
    colours: Colours = "style",
    seed: int | None = None,
    model: str = "",
    resize: ResizeLike | None = "keep",
    request_id: str = "",
) -> Call[Snapshot]:
    """Queues `content` in the style of `styles`; the parameters are those of `convlens.v1.StyleTransfer`."""
    technique = job_pb2.StyleTransfer(
        content=to_image(content, resize, "content"),
        styles=[_style(style, f"styles[{i}]") for i, style in enumerate(styles)],
        method=job_pb2.STYLE_METHOD_CLASSIC if classic else job_pb2.STYLE_METHOD_BEST,
        layers=layers,
        weights=layers.values() if isinstance(layers, Mapping) else (),
        content_layer=content_layer,
        content_weight=content_weight,
        tv_weight=tv_weight,
        first_steps=first_steps,
        steps=steps,
        smallest=smallest,
        learning_rate=learning_rate,
        noise_start=noise_start,
        colours=chosen(COLOURS, colours, "colours"),
    )
    return submit(technique, model=model, seed=seed, request_id=request_id)


def _style(style: Style, field: str) -> job_pb2.Style:
    mask = None if style.mask is None else to_image(style.mask, "keep", f"{field}.mask")
    return job_pb2.Style(
        image=to_image(style.image, "keep", f"{field}.image"), weight=style.weight, mask=mask
    )


def _objective(item: Target | Mapping[Target, float]) -> job_pb2.Objective:
    weighted = item if isinstance(item, Mapping) else {item: None}
    return job_pb2.Objective(
        terms=[
            job_pb2.WeightedTarget(target=target.message(), weight=weight)
            for target, weight in weighted.items()
        ]
    )
