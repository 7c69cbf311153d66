"""Operators that plain convolutional networks do without, each with its PyTorch reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from support.pair import Pair

RANDOM = np.random.default_rng(11)


def noise(*shape: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return (RANDOM.standard_normal(shape) * scale + shift).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


class Case(NamedTuple):
    """A node on an image of (2, 4, 6, 7) numbers: its constants, its reference, its attributes."""

    name: str
    ref: Callable[..., Any]
    others: tuple[Any, ...] = ()
    attributes: dict[str, Any] = {}  # noqa: RUF012
    opset: int = 20
    scale: float = 1.0
    image: np.ndarray | None = None
    outputs: int = 1

    def build(self) -> Pair:
        picture = noise(2, 4, 6, 7, scale=self.scale) if self.image is None else self.image
        pair = Pair(picture, opset=self.opset)
        kind = self.name.split(":")[0]
        inputs = [other if isinstance(other, str) else pair.const(np.asarray(other)) for other in self.others]
        pair.op(kind, "image", *inputs, ref=self.ref, outputs=self.outputs, **self.attributes)
        return pair


def case(name: str, ref: Callable[..., Any], *others: Any, **more: Any) -> Case:
    own = {k: more.pop(k) for k in ("opset", "scale", "image", "outputs") if k in more}
    return Case(name, ref, others, more, **own)


def resized(**options: Any) -> Callable[..., torch.Tensor]:
    """PyTorch's interpolation, whatever the other inputs of Resize say."""
    return lambda x, *_: F.interpolate(x, **options)


def tied() -> np.ndarray:
    """Integers, of which several are the largest and the smallest."""
    return RANDOM.integers(-1, 2, (2, 4, 6, 7)).astype(np.float32)


def with_zeros() -> np.ndarray:
    """One zero in a row, two in another, none in the others."""
    picture = np.abs(noise(2, 4, 6, 7)) + np.float32(0.5)
    picture[0, 0, 0, 0] = picture[1, 2, 3, 4] = picture[1, 2, 3, 6] = 0
    return picture


def scaled(*factors: float) -> np.ndarray:
    return np.array([1, 1, *factors], np.float32)


def crop(x: torch.Tensor, *_: Any) -> torch.Tensor:
    """tf_crop_and_resize of rows 0.2 to 0.8 and columns 0.5 to 1.2 to 5 x 4, linear: TensorFlow's formula."""
    rows = torch.arange(5, dtype=torch.float64) * (0.8 - 0.2) * 5 / 4 + 0.2 * 5
    columns = torch.arange(4, dtype=torch.float64) * (np.float32(1.2) - 0.5) * 6 / 3 + 0.5 * 6
    known = (rows <= 5)[:, None] & (columns <= 6)
    y, x0 = rows.clamp(0, 4.999).floor().long(), columns.clamp(0, 5.999).floor().long()
    v, u = (rows - y)[:, None], (columns - x0)[None]
    top = x[..., y, :][..., x0] * (1 - u) + x[..., y, :][..., x0 + 1] * u
    bottom = x[..., y + 1, :][..., x0] * (1 - u) + x[..., y + 1, :][..., x0 + 1] * u
    return torch.where(known, top * (1 - v) + bottom * v, 9.0)


INDEX = RANDOM.permutation(28).reshape(2, 2, 7)[:, :, :5] // 7
NONE = ("", "")
CASES = [
    case("Celu", lambda x: F.celu(x, 0.6), alpha=0.6),
    case("Cos", torch.cos),
    case("Gelu", F.gelu, scale=2),
    case("Gelu:tanh", lambda x: F.gelu(x, approximate="tanh"), approximate="tanh", scale=2),
    case("Mish", F.mish, scale=3),
    case("Sin", torch.sin),
    case("Softsign", F.softsign),
    case("Swish", lambda x: x * torch.sigmoid(1.702 * x), alpha=1.702, opset=24),
    case("ThresholdedRelu", lambda x: F.threshold(x, 0.3, 0.0), alpha=0.3),
    *(case(f.__name__.title(), f) for f in (torch.ceil, torch.floor, torch.round, torch.sign)),
    case("Max", torch.maximum, noise(4, 1, 1)),
    case("Max:ties", torch.maximum, np.zeros(1, np.float32), image=tied()),
    case("Min", torch.minimum, noise(1, 6, 7)),
    case("Mean", lambda a, b, c: (a + b + c) / 3, noise(4, 1, 1), noise(7)),
    *(
        case(
            f"{kind}:{axes}:{keep}",
            lambda x, *_, f=f, axes=axes, keep=keep: f(x, axes, keep),
            ints(*axes),
            keepdims=keep,
            scale=2,
        )
        for kind, f in {
            "ReduceL1": lambda x, a, k: x.abs().sum(a, bool(k)),
            "ReduceL2": lambda x, a, k: torch.linalg.vector_norm(x, dim=a, keepdim=bool(k)),
            "ReduceLogSumExp": lambda x, a, k: x.logsumexp(a, bool(k)),
            "ReduceMax": lambda x, a, k: x.amax(a, bool(k)),
            "ReduceMin": lambda x, a, k: x.amin(a, bool(k)),
            "ReduceSumSquare": lambda x, a, k: x.square().sum(a, bool(k)),
        }.items()
        for axes, keep in (((2, 3), 1), ((1,), 0))
    ),
    case("ReduceMax:ties", lambda x, _: x.amax((2, 3)), ints(2, 3), keepdims=0, image=tied()),
    case("ReduceMin:ties", lambda x, _: x.amin(1), ints(1), keepdims=0, image=tied()),
    case("ReduceMax:17", lambda x: x.amax((1, 2), keepdim=True), axes=[1, 2], opset=17),
    case(
        "ReduceL2:zero",
        lambda x, _: torch.linalg.vector_norm(x, dim=1),
        ints(1),
        keepdims=0,
        image=np.zeros((2, 4, 6, 7), np.float32),
    ),
    case("ReduceLogSum", lambda x, _: x.sum(1).log(), ints(1), keepdims=0, image=with_zeros()),
    case("ReduceProd", lambda x, _: x.prod(3), ints(3), keepdims=0, image=with_zeros()),
    case("ReduceProd:17", lambda x: x.prod(3, True), axes=[3], opset=17, image=with_zeros()),
    case("ReduceProd:all", lambda x: x.flatten().prod(0).reshape(1, 1, 1, 1), scale=2),
    case(
        "LayerNormalization",
        lambda x, s, b: F.layer_norm(x, (7,), s, b, 1e-3),
        noise(7),
        noise(7),
        epsilon=1e-3,
    ),
    case("LayerNormalization:1", lambda x, s: F.layer_norm(x, (4, 6, 7), s), noise(4, 6, 7), axis=1),
    case(
        "InstanceNormalization",
        lambda x, s, b: F.instance_norm(x, weight=s, bias=b, eps=1e-2),
        noise(4),
        noise(4),
        epsilon=1e-2,
    ),
    case(
        "Resize",
        resized(scale_factor=2),
        "",
        scaled(2, 2),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    ),
    case(
        "Resize:sizes",
        resized(size=(9, 5)),
        "",
        "",
        ints(2, 4, 9, 5),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    ),
    case(
        "Resize:exact",
        resized(size=(9, 5), mode="nearest-exact"),
        "",
        "",
        ints(2, 4, 9, 5),
        nearest_mode="round_prefer_ceil",
    ),
    case(
        "Resize:linear",
        resized(scale_factor=2, mode="bilinear"),
        "",
        scaled(2, 2),
        mode="linear",
        coordinate_transformation_mode="pytorch_half_pixel",
    ),
    case(
        "Resize:corners",
        resized(size=(11, 3), mode="bilinear", align_corners=True),
        "",
        "",
        ints(2, 4, 11, 3),
        mode="linear",
        coordinate_transformation_mode="align_corners",
    ),
    case(
        "Resize:axes", resized(size=(13, 7), mode="bilinear"), "", "", ints(13, 7), mode="linear", axes=[2, 3]
    ),
    case("Resize:columns", resized(size=(6, 9), mode="bilinear"), "", "", ints(9), mode="linear", axes=[3]),
    case(
        "Resize:cubic",
        resized(scale_factor=(1.5, 2), mode="bicubic"),
        "",
        scaled(1.5, 2),
        mode="cubic",
        cubic_coeff_a=-0.75,
    ),
    case(
        "Resize:cubic corners",
        resized(size=(8, 9), mode="bicubic", align_corners=True),
        "",
        "",
        ints(2, 4, 8, 9),
        mode="cubic",
        cubic_coeff_a=-0.75,
        coordinate_transformation_mode="align_corners",
    ),
    case(
        "Resize:crop",
        crop,
        np.array([0, 0, 0.2, 0.5, 1, 1, 0.8, 1.2], np.float32),
        "",
        ints(2, 4, 5, 4),
        mode="linear",
        coordinate_transformation_mode="tf_crop_and_resize",
        extrapolation_value=9.0,
    ),
    *(
        case(
            f"Pad:{mode}",
            lambda x, _, m=theirs: F.pad(x, (1, 3, 2, 0), mode=m),
            ints(0, 0, 2, 1, 0, 0, 0, 3),
            mode=mode,
        )
        for mode, theirs in (("reflect", "reflect"), ("edge", "replicate"), ("wrap", "circular"))
    ),
    case(
        "DepthToSpace",
        lambda x: x.reshape(2, 2, 2, 1, 6, 7).permute(0, 3, 4, 1, 5, 2).reshape(2, 1, 12, 14),
        blocksize=2,
    ),
    case(
        "DepthToSpace:CRD", lambda x: F.pixel_shuffle(x, 2), blocksize=2, mode="CRD", image=noise(2, 12, 3, 2)
    ),
    case(
        "DepthToSpace:DCR",
        lambda x: x.reshape(2, 2, 2, 3, 3, 2).permute(0, 3, 4, 1, 5, 2).reshape(2, 3, 6, 4),
        blocksize=2,
        image=noise(2, 12, 3, 2),
    ),
    case(
        "SpaceToDepth",
        lambda x: x.reshape(2, 4, 3, 2, 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(2, 16, 3, 2),
        blocksize=2,
        image=noise(2, 4, 6, 4),
    ),
    case("GatherND", lambda x, i: x[i[:, 0].long(), i[:, 1].long()], np.array([[0, 1], [1, 3], [0, 1]])),
    case(
        "ScatterElements",
        lambda x, i, u: x.scatter(2, i.long(), u),
        INDEX[:, None, :, :].repeat(4, 1),
        noise(2, 4, 2, 5),
        axis=2,
    ),
    case(
        "ScatterElements:add",
        lambda x, i, u: x.scatter_add(2, i.long(), u),
        INDEX[:, None, :, :].repeat(4, 1),
        noise(2, 4, 2, 5),
        axis=2,
        reduction="add",
    ),
    case(
        "ScatterElements:updates",
        lambda x, i, _: x.scatter(2, i.long(), x),
        np.argsort(noise(2, 4, 6, 7), 2),
        "image",
        axis=2,
    ),
    case(
        "ScatterND",
        lambda x, i, u: x.index_put((i[:, 0].long(), i[:, 1].long()), u),
        np.array([[0, 1], [1, 3]]),
        noise(2, 6, 7),
    ),
    case(
        "ScatterND:updates", lambda x, i, u: x.index_put((i[:, 0].long(),), u), np.array([[1], [0]]), "image"
    ),
    case("Tile", lambda x, _: x.tile(1, 2, 1, 3), ints(1, 2, 1, 3)),
    case("Trilu", lambda x, _: x.tril(1), np.array(1), upper=0),
    case("CumSum", lambda x, _: x.cumsum(2), np.array(2)),
    case(
        "CumSum:exclusive", lambda x, _: x.flip(3).cumsum(3).flip(3) - x, np.array(3), exclusive=1, reverse=1
    ),
    case(
        "ReverseSequence",
        lambda x, _: torch.stack([torch.cat([x[0, :3].flip(0), x[0, 3:]]), x[1].flip(0)]),
        ints(3, 4),
        batch_axis=0,
        time_axis=1,
    ),
    case("TopK", lambda x, _: tuple(x.topk(3, 2)), ints(3), axis=2, outputs=2),
    case("TopK:smallest", lambda x, _: tuple(x.topk(2, largest=False)), ints(2), largest=0, outputs=2),
    case("Einsum", lambda x, w: torch.einsum("nchw,dc->nhwd", x, w), noise(5, 4), equation="nchw,dc->nhwd"),
    case(
        "Einsum:attention",
        lambda x, y: torch.einsum("...ij,...kj->...ik", x, y),
        "image",
        equation="...ij,...kj->...ik",
    ),
    case("Einsum:sums", lambda x, w: torch.einsum("nchw,k->nc", x, w), noise(3), equation="nchw, k -> nc"),
    case("Einsum:implied", lambda x: torch.einsum("nchw", x), equation="nchw"),
    case("Einsum:total", lambda x: torch.einsum("abcd->", x).reshape(()), equation="abcd->"),
]
