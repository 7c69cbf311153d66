"""Rules of the convolutions."""

from __future__ import annotations

from collections.abc import Sequence

from .tape import Node, Tape
from .window import Axis, axes_of


def conv(t: Tape, node: Node, cotangents: Sequence[str]) -> list[str]:
    """Conv: the transposed convolution of g, see `input_gradient`."""
    x, weight = node.inputs[:2]
    if any(node.wants(index) for index in range(1, len(node.inputs))):
        raise node.refuse("the kernel or the bias depends on the image")
    kernel = _ints(t, node, weight)
    axes = axes_of(t, node, kernel[2:])
    return [
        input_gradient(t, cotangents[0], x, weight, kernel=kernel, axes=axes, groups=node.get("group", 1))
    ]


def conv_transpose(t: Tape, node: Node, cotangents: Sequence[str]) -> list[str]:
    """ConvTranspose: the plain convolution of g with the same kernel."""
    if any(node.wants(index) for index in range(1, len(node.inputs))):
        raise node.refuse("the kernel or the bias depends on the image")
    if node.get("output_shape") or node.get("auto_pad", "NOTSET") != "NOTSET":
        raise node.refuse("output_shape and auto_pad have no rule, pads have one")
    kept = {k: v for k, v in node.attributes.items() if k not in ("output_padding", "output_shape")}
    return [t.op("Conv", cotangents[0], node.inputs[1], **kept)]


def _ints(t: Tape, node: Node, value: str) -> list[int]:
    sizes = [size for size in t.shape(value) if isinstance(size, int)]
    if len(sizes) != len(t.shape(value)):
        raise node.refuse(f"the shape of {value!r} is not known")
    return sizes


def input_gradient(
    t: Tape, g: str, x: str, weight: str, *, kernel: list[int], axes: tuple[Axis, Axis], groups: int
) -> str:
    """The gradient of a convolution's input.

    For stride 1 it is a plain convolution with the flipped kernel, input and output channels exchanged.
    For stride s, position s q + r of the image meets only the taps k = r + pad (mod s): s*s small kernels,
    one for each phase r, run as one convolution with s*s times the channels, which DepthToSpace interleaves.
    Both run in ONNX Runtime's blocked layout, ConvTranspose does not. The kernels are rearranged by nodes on
    initializers, which ONNX Runtime computes once, when it builds the session.
    """
    strides = {axis.stride for axis in axes}
    plain = strides == {1} or all(axis.dilation == 1 for axis in axes)
    if len(strides) > 1 or not plain or any(axis.begin > axis.reach for axis in axes):
        return _by_transposed_convolution(t, g, x, weight, axes=axes, groups=groups)
    stride = strides.pop()
    pads = [_padding(axis) for axis in axes]
    flipped = _phase_kernels(t, weight, kernel, axes, groups)
    begins, ends = zip(*pads, strict=True)
    result = t.op(
        "Conv", g, flipped, group=groups, pads=[*begins, *ends], dilations=[axis.dilation for axis in axes]
    )
    if stride == 1:
        return result
    interleaved = t.op("DepthToSpace", result, blocksize=stride, mode="CRD")
    exact = all(isinstance(axis.length, int) and axis.length % stride == 0 for axis in axes)
    return interleaved if exact and min(_after(axis) for axis in axes) >= 0 else _crop(t, interleaved, x)


def _front(axis: Axis) -> int:
    """Zeros before the kernel that bring phase 0 onto the image's first pixel."""
    return -axis.begin % axis.stride


def _taps(axis: Axis) -> int:
    """Taps that each phase sees."""
    return -(-(_front(axis) + axis.kernel) // axis.stride)


def _padding(axis: Axis) -> tuple[int, int]:
    if axis.stride == 1:
        return axis.reach - axis.begin, max(0, axis.reach - axis.end)
    return _before(axis), max(0, _after(axis))


def _before(axis: Axis) -> int:
    return _taps(axis) - 1 - -(-axis.begin // axis.stride)


def _after(axis: Axis) -> int:
    """Zeros behind g, so that the result covers the image; where sizes are not known, enough for any."""
    s = axis.stride
    if isinstance(axis.length, int) and isinstance(axis.places, int):
        missing = -(-axis.length // s) - axis.places
    else:
        missing = -(-(axis.kernel - axis.begin - axis.end - 1) // s)
    return missing - _before(axis) + _taps(axis) - 1


def _phase_kernels(t: Tape, weight: str, kernel: list[int], axes: tuple[Axis, Axis], groups: int) -> str:
    """[M, C/G, kh, kw] as [C s s, M/G, taps, taps], flipped; channels ordered (c, phase y, phase x)."""
    outputs, inputs = kernel[:2]
    s = axes[0].stride
    taps = [_taps(axis) for axis in axes]
    fronts = [_front(axis) for axis in axes]
    backs = [n * s - axis.kernel - front for n, axis, front in zip(taps, axes, fronts, strict=True)]
    if any(fronts + backs):
        weight = t.once("Pad", weight, t.ints([0, 0, *fronts, 0, 0, *backs]))
    split = [groups, outputs // groups, inputs, taps[0], s, taps[1], s]
    weight = t.once("Reshape", weight, t.ints(split))
    if taps != [1, 1]:
        least, back = t.ints([-(2**63), -(2**63)]), t.ints([-1, -1])
        weight = t.once("Slice", weight, back, least, t.ints([3, 5]), back)
    weight = t.once("Transpose", weight, perm=[0, 2, 4, 6, 1, 3, 5])
    return t.once("Reshape", weight, t.ints([groups * inputs * s * s, outputs // groups, *taps]))


def _crop(t: Tape, value: str, x: str, starts: tuple[int, int] = (0, 0)) -> str:
    """The part of `value` that begins at `starts` and has the height and width of x."""
    sizes = t.once("Slice", t.sizes(x), t.ints([2]), t.ints([4]))
    ends = t.op("Add", sizes, t.ints(starts)) if any(starts) else sizes
    return t.op("Slice", value, t.ints(starts), ends, t.ints([2, 3]))


def _by_transposed_convolution(
    t: Tape, g: str, x: str, weight: str, *, axes: tuple[Axis, Axis], groups: int
) -> str:
    whole = t.op(
        "ConvTranspose",
        g,
        weight,
        group=groups,
        strides=[axis.stride for axis in axes],
        dilations=[axis.dilation for axis in axes],
        output_padding=[axis.stride - 1 for axis in axes],
    )
    return _crop(t, whole, x, (axes[0].begin, axes[1].begin))
