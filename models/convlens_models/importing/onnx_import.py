"""Brings a user's ONNX classifier into the model repository."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from safetensors.numpy import save_file

from convlens.errors import InvalidArgument
from convlens_models import tensors
from convlens_models.architectures.base import IMAGENET_MEAN, IMAGENET_STD
from convlens_models.graphs import autodiff, layers, surgery
from convlens_models.graphs.normalisation import check_normalisation
from convlens_models.importing import canonicalise, proof, publish, sizes, verify
from convlens_models.importing.labels import load_classes
from convlens_models.importing.open_layers import open_layers
from convlens_models.importing.original import Original
from convlens_models.importing.proof import Served
from convlens_models.manifest import ONNX, Layer, Manifest, Proof, Rgb
from convlens_models.repository import FORWARD, WEIGHTS

InputRange = Literal["0..1", "0..255"]
NORMALISATION: Final[dict[str, tuple[Rgb, Rgb, float]]] = {
    "0..1": (IMAGENET_MEAN, IMAGENET_STD, 1.0),
    "0..255": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 255.0),
}
"""Of each input range: default mean, default deviation, and the value of white."""

DEFAULT_SIZE: Final = 224
FREE_BATCH: Final = (
    "Export it with a batch that may change: torch.onnx.export(..., dynamo=True, "
    "dynamic_shapes=({0: torch.export.Dim('N')},)), or with dynamo=False, dynamic_axes={'input': {0: 'N'}}"
)
SLOPES_AT: Final = 96
"""Pixels a side at which gradients are proven where the network takes them."""
STORED_FROM: Final = 16  # Elements; smaller constants stay in the graph, where they can be read.


def add_onnx(
    root: Path,
    file: Path,
    name: str,
    labels: Path | None = None,
    *,
    mean: Rgb | None = None,
    std: Rgb | None = None,
    input_range: InputRange = "0..1",
    bgr: bool = False,
    input_size: int | None = None,
) -> Manifest:
    """Add an ONNX classifier to the repository in the folder `root`, as the newest version of `name`.

    Args:
        file: one float32 input (N, 3, H, W), one output (N, classes): logits, or their softmax.
        mean, std: what the network expects to be subtracted and divided by, in units of `input_range`, in the
            order red, green, blue; None: ImageNet's for "0..1", nothing for "0..255".
        input_range: values of black and white that mean and deviation refer to.
        bgr: the network's first channel is blue.
        input_size: side of the images, in pixels; None: what the graph says, else 224.

    Raises:
        InvalidArgument: unusable name or file, another layout, an opset or operator that cannot be
            differentiated (with the node's name), a batch that cannot be freed, or a wrong number of labels.
    """
    publish.check_name(name)
    default_mean, default_std, white = NORMALISATION[input_range]
    mean, std = check_normalisation(mean or default_mean, std or default_std)
    mean, std = _over(mean, white), _over(std, white)
    model = canonicalise.read(file)
    size = _size(canonicalise.declared_size(model), input_size)
    declared = 0 not in canonicalise.declared_size(model)
    adopted = canonicalise.adopt(model, mean, std, bgr, size)
    output, values = adopted.output, adopted.values
    autodiff.check(model)
    with publish.staging(root) as folder:
        parameters = _move_weights(model, folder)
        classes = verify.check_classifier(model, folder, output, size)
        served = Served(model, folder, output, adopted.file_output, adopted.former)
        original = Original(file, mean, std, bgr)
        scores = proof.check_scores(served, original, size)
        scores = max(scores, _check_batch(served, original, size))
        found = sizes.decide(served, original, size, declared)
        slopes = proof.check_slopes(served, original, _for_slopes(found, size))
        dynamic = found.multiple > 0
        canonicalise.open_size(model, None if dynamic else size)
        onnx.save(onnx.shape_inference.infer_shapes(model), folder / FORWARD)
        described = _layers(model, values, size)
        if not dynamic:
            proven = _open_layers(served, described, size, original)
            described = tuple(
                layer.model_copy(update={"any_size": layer.name in proven}) for layer in described
            )
        manifest = Manifest(
            name=name,
            version=1,
            architecture=ONNX,
            input_size=size,
            min_size=found.least,
            size_multiple=max(1, found.multiple),
            dynamic_size=dynamic,
            mean=mean,
            std=std,
            **load_classes(labels, classes)._asdict(),
            layers=described,
            dream_layers=_dream_layers(described),
            output=output,
            parameters=parameters,
            multiply_adds=layers.multiply_adds(model, size),
            files={},
            proof=Proof(
                scores=max(scores, found.error),
                slopes=slopes,
                batches=proof.BATCHES,
                sizes=found.proven,
                notes=_notes(adopted, found),
            ),
        )
        return publish.publish(folder, root, manifest)


def _over(values: Rgb, white: float) -> Rgb:
    red, green, blue = values
    return red / white, green / white, blue / white


def _size(declared: tuple[int, int], wanted: int | None) -> int:
    """Side of the images that a graph with the declared height and width gets."""
    if declared[0] != declared[1]:
        raise InvalidArgument.of("model.input", f"{declared[0]} x {declared[1]} pixels", "square")
    if wanted is not None and declared[0] not in (0, wanted):
        raise InvalidArgument.of("input_size", wanted, f"{declared[0]}, which the graph declares")
    return wanted or declared[0] or DEFAULT_SIZE


def _move_weights(model: onnx.ModelProto, folder: Path) -> int:
    """Write the weights to their own file and point the graph at it; returns how many numbers they are."""
    used = {name for node in model.graph.node for name in node.input}
    stored, small = {}, []
    for tensor in model.graph.initializer:
        floating = tensor.data_type in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
        value = numpy_helper.to_array(tensor)
        if tensor.name in used and floating and value.size >= STORED_FROM:
            stored[tensor.name] = np.ascontiguousarray(value)
        elif tensor.name in used:
            small.append(tensor)
    save_file(stored, folder / WEIGHTS)
    index = tensors.index(folder / WEIGHTS)
    external = [tensors.external(name, entry, WEIGHTS) for name, entry in index.items()]
    surgery.replace(model.graph.initializer, [*small, *external])
    return sum(value.size for value in stored.values())


def _check_batch(served: Served, original: Original, size: int) -> float:
    """Raise InvalidArgument unless images in batches have the file's scores of each; the largest error."""
    if (error := proof.batch_error(served, original, size)) is not None:
        return error
    if original.batch:
        raise InvalidArgument(f"model: its batch is fixed at {original.batch}. {FREE_BATCH}", field="model")
    raise InvalidArgument("model: images of one batch change each other's scores", field="model")


def _for_slopes(found: sizes.Sizes, size: int) -> tuple[int, int]:
    """A size at which differences in float64 take little time, and maps have more than one position."""
    side = size - (size - SLOPES_AT) // found.multiple * found.multiple if found.multiple else size
    return (min(size, max(found.least, side)),) * 2


def _notes(adopted: canonicalise.Adopted, found: sizes.Sizes) -> tuple[str, ...]:
    """What was decided, in words."""
    freed = [f"{node}: holds the batch no more" for node in adopted.freed]
    same = f"{adopted.file_output} equals the output of the file; the scores are {adopted.output}"
    step = found.multiple
    taken = f"steps of {step} px from {found.least}" if step else "the one size"
    return (*freed, same, f"sizes: {taken}, for {found.why}")


def _open_layers(
    served: Served, described: Sequence[Layer], size: int, original: Original
) -> Collection[str]:
    """The layers that are open though the head is not; none where pads may follow from the size."""
    if sizes.pads_follow_size(served.model, size):
        return ()
    return open_layers(served, described, size, original.open())


def _dream_layers(described: Sequence[Layer]) -> tuple[str, ...]:
    """The last map at the last resolution but one, where the built-in networks have theirs."""
    maps = [layer for layer in described if layer.stride and len(layer.shape) == 3]
    strides = sorted({layer.stride for layer in maps})
    return tuple(layer.name for layer in maps if layer.stride in strides[-2:][:1])[-1:]


def _layers(model: onnx.ModelProto, values: list[str], size: int) -> tuple[Layer, ...]:
    """The values that are maps or vectors of floats, one an image."""
    shapes = surgery.shapes(surgery.static(model, (1, size, size)))
    seen = layers.receptive_fields(model, size)
    names = [name for name in values if name in seen]
    whole = [name for name in names if len(shapes.get(name, ())) >= 2 and 0 not in shapes[name]]
    return layers.describe(model, dict.fromkeys(whole), size)
