"""What a file takes as its image, and what makes it of RGB pixels: layout, channels, numbers."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from convlens.errors import InvalidArgument
from convlens_models.graphs.surgery import hidden, replace

Layout = Literal["nchw", "nhwc"]
LUMINANCE: Final = (0.299, 0.587, 0.114)
"""Of red, green and blue: ITU-R BT.601, which Pillow, OpenCV and torchvision take for grey as well."""
CHANNELS: Final = (1, 3, 4)
FLOATS: Final = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
WHOLE: Final = (TensorProto.UINT8, TensorProto.INT32, TensorProto.INT64)
"""Inputs of whole numbers take pixels from 0 to 255."""
ALLOWED: Final = (
    "an image (N, C, H, W) or (N, H, W, C) with C of 1, 3 or 4, in FLOAT, FLOAT16 or DOUBLE, or UINT8, INT32 "
    "or INT64 for pixels from 0 to 255"
)


class Form(NamedTuple):
    """The image that a file takes.

    Attributes:
        name: of the input.
        kind: of its numbers, one of `TensorProto`'s data types.
        channels: 3; 1: grey; 4: red, green, blue and alpha.
        last: whether they are the last axis.
    """

    name: str
    kind: int
    channels: int
    last: bool

    @property
    def whole(self) -> bool:
        """Whether it takes whole numbers from 0 to 255."""
        return self.kind in WHOLE

    def planes(self, pixels: NDArray[np.floating], white: float = 1.0) -> NDArray[np.floating]:
        """The image that the file takes, in real numbers, for normalised pixels (N, 3, H, W).

        Args:
            white: the value of alpha, where there is a fourth channel.
        """
        planes = pixels
        if self.channels == 1:
            planes = np.einsum("nchw,c->nhw", pixels, np.array(LUMINANCE, pixels.dtype))[:, None]
        if self.channels == 4:
            planes = np.concatenate([pixels, np.full_like(pixels[:, :1], 255 if self.whole else white)], 1)
        return planes.transpose(0, 2, 3, 1) if self.last else planes

    def feed(self, pixels: NDArray[np.floating], white: float = 1.0) -> NDArray[np.generic]:
        """The same in the file's numbers; whole ones are rounded."""
        planes = self.planes(pixels, white)
        planes = np.rint(planes) if self.whole else planes
        return np.ascontiguousarray(planes, helper.tensor_dtype_to_np_dtype(self.kind))


def read_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs that are no weights, which old files list too; of several, those that a node reads."""
    weights = {tensor.name for tensor in graph.initializer}
    images = [info for info in graph.input if info.name not in weights]
    read = {name for node in graph.node for name in node.input}
    return [info for info in images if info.name in read] if len(images) > 1 else images


def form(model: onnx.ModelProto, layout: Layout | None = None) -> Form:
    """What the model's one input takes; None: its shape says the layout, and where that is open, it is NCHW.

    Raises:
        InvalidArgument: several inputs or none, or one that takes no image, or none of this layout.
    """
    images = read_inputs(model.graph)
    if len(images) != 1:
        names = [info.name for info in images]
        raise InvalidArgument.of("model.inputs", names, "one value: an image in, the classes' scores out")
    kind = images[0].type.tensor_type.elem_type
    dims = [dim.dim_value for dim in images[0].type.tensor_type.shape.dim]
    places: dict[Layout, int] = {"nchw": 1, "nhwc": 3}
    fitting = [name for name, place in places.items() if len(dims) == 4 and dims[place] in CHANNELS]
    if not fitting and len(dims) == 4:
        fitting = [name for name, place in places.items() if dims[place] == 0]
    fitting = [name for name in fitting if layout in (None, name)]
    if kind not in (*FLOATS, *WHOLE) or not fitting:
        shown = f"{TensorProto.DataType.Name(kind)} {[dim or '?' for dim in dims]}"
        allowed = f"{ALLOWED}; layout is {layout or 'not told'}"
        raise InvalidArgument.of(f"model.inputs.{images[0].name}", shown, allowed)
    return Form(images[0].name, kind, dims[places[fitting[0]]] or 3, fitting[0] == "nhwc")


def adapt(model: onnx.ModelProto, taken: Form, white: float = 1.0) -> list[str]:
    """Let `model`, which takes `taken` in float32, take RGB (N, 3, H, W), in place; what is to be told of it.

    Args:
        white: the value of alpha, where there is a fourth channel.
    """
    if not taken.last and taken.channels == 3:
        return []
    image = next(info for info in model.graph.input if info.name == taken.name)
    dims = image.type.tensor_type.shape.dim
    batch, *sides = (dim.dim_value or dim.dim_param or None for dim in dims)
    height, width = sides[:2] if taken.last else sides[1:]
    source, told, nodes = f"{taken.name}.rgb", list[str](), list[onnx.NodeProto]()
    replace(
        model.graph.input,
        [helper.make_tensor_value_info(source, TensorProto.FLOAT, (batch, 3, height, width))],
    )
    if taken.channels != 3:
        made = f"{taken.name}.channels" if taken.last else taken.name
        mix, bias, note = _mixing(taken.channels, 255.0 if taken.whole else white)
        names = (f"{taken.name}.mix", f"{taken.name}.bias")
        for name, value in zip(names, (mix, bias), strict=True):
            model.graph.initializer.append(numpy_helper.from_array(value, name))
        nodes.append(hidden(helper.make_node("Conv", [source, *names], [made], name=made)))
        source = made
        told.append(note)
    if taken.last:
        nodes.append(hidden(helper.make_node("Transpose", [source], [taken.name], perm=[0, 2, 3, 1])))
        told.append("channels come last in the file: it is given the picture with its axes so")
    replace(model.graph.node, [*nodes, *model.graph.node])
    del model.graph.value_info[:]
    return told


def _mixing(channels: int, white: float) -> tuple[NDArray[np.float32], NDArray[np.float32], str]:
    """Kernel and bias that make one or four channels of three, and what is told of it."""
    if channels == 1:
        note = (
            "the file takes one channel: it is given the luminance .299 R + .587 G + .114 B (Rec. 601), and "
            "gradients are those by R, G and B"
        )
        return np.array(LUMINANCE, np.float32).reshape(1, 3, 1, 1), np.zeros(1, np.float32), note
    note = f"the file takes four channels: the fourth, alpha, is {white:g} everywhere"
    return np.eye(4, 3, dtype=np.float32).reshape(4, 3, 1, 1), np.array([0, 0, 0, white], np.float32), note
