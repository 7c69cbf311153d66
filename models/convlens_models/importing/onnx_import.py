"""Brings a user's ONNX classifier into the model repository."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final, Literal

import onnx

from convlens.errors import InvalidArgument
from convlens_models.architectures.base import IMAGENET_MEAN, IMAGENET_STD
from convlens_models.graphs import autodiff, layers, surgery
from convlens_models.graphs.normalisation import check_normalisation
from convlens_models.importing import canonicalise, fidelity, inputs, notes, proof, publish, sizes, verify
from convlens_models.importing.inputs import Layout
from convlens_models.importing.labels import load_classes
from convlens_models.importing.open_layers import open_layers
from convlens_models.importing.original import Original
from convlens_models.importing.proof import Served
from convlens_models.manifest import ONNX, Layer, Manifest, OutputKind, Proof, Rgb
from convlens_models.repository import FORWARD

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


def add_onnx(
    root: Path,
    file: Path,
    name: str,
    labels: Path | None = None,
    *,
    mean: Rgb | None = None,
    std: Rgb | None = None,
    input_range: InputRange | None = None,
    bgr: bool = False,
    input_size: int | None = None,
    one_size: bool = False,
    layout: Layout | None = None,
    output: str | None = None,
    output_kind: OutputKind | None = None,
) -> Manifest:
    """Add an ONNX classifier to the repository in the folder `root`, as the newest version of `name`.

    Args:
        file: one input, an image of one, three or four channels, first or last, in floats or whole numbers;
            one output (N, classes) that is of an `OutputKind`.
        mean, std: what the network expects to be subtracted and divided by, in units of `input_range`, in the
            order red, green, blue; None: ImageNet's for "0..1", nothing for "0..255".
        input_range: values of black and white that mean and deviation refer to; None: "0..255" for files that
            take whole numbers, else "0..1".
        bgr: the network's first channel is blue.
        input_size: side of the images, in pixels; None: what the graph says, else 224.
        one_size: the graph is right at `input_size` alone, whatever it takes.
        layout: whether channels come first or last in the file; None: as the shape of its input says.
        output: name of the output to take, where the file has several.
        output_kind: what the output is; None: what graph and values tell.

    Raises:
        InvalidArgument: unusable name or file, another layout, an opset or operator that cannot be
            differentiated (with the node's name), a batch that cannot be freed, or a wrong number of labels.
    """
    publish.check_name(name)
    taken = inputs.form(canonicalise.load(file, weights=False), layout)
    _check_options(taken, {"mean": mean, "std": std, "input_range": input_range, "bgr": bgr})
    default_mean, default_std, white = NORMALISATION[input_range or ("0..255" if taken.whole else "0..1")]
    mean, std = check_normalisation(mean or default_mean, std or default_std)
    mean, std = _over(mean, white), _over(std, white)
    model = canonicalise.read(file, layout, white)
    fidelity.check(file, model, taken, (mean, std), white)
    size = _size(canonicalise.declared_size(model), input_size)
    declared = 0 not in canonicalise.declared_size(model)
    with publish.staging(root) as folder:
        adopted = canonicalise.adopt(
            model, mean, std, bgr, folder=folder, size=size, output=output, output_kind=output_kind
        )
        head, values = adopted.head, adopted.values
        output = head.logits
        autodiff.check(model)
        classes = verify.check_classifier(model, folder, output, size)
        served = Served(model, folder, head, adopted.former, fidelity.tolerance(model))
        original = Original(file, mean, std, bgr, taken=taken, white=white, output=adopted.file_output)
        scores = proof.check_scores(served, original, size)
        scores = max(scores, _check_batch(served, original, size))
        found = sizes.one(size) if one_size else sizes.decide(served, original, size, declared)
        slopes = proof.check_slopes(served, original, _for_slopes(found, size))
        dynamic = found.multiple > 0
        canonicalise.open_size(model, None if dynamic else size)
        onnx.save(surgery.inferred(model), folder / FORWARD)
        described = _layers(model, values, size)
        if not (dynamic or one_size):
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
            output_kind=head.kind,
            parameters=adopted.parameters,
            multiply_adds=layers.multiply_adds(model, size),
            notes=notes.of(model),
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


def _check_options(taken: inputs.Form, given: dict[str, object]) -> None:
    """Raise InvalidArgument for what cannot be said of the input that a file has."""
    if taken.channels == 1 and given["bgr"]:
        raise InvalidArgument.of("bgr", True, "left out: the file takes one channel")
    free = {"bgr": given["bgr"], "input_range": "0..255"}
    for name, value in given.items():
        if taken.whole and value and value != free.get(name):
            raise InvalidArgument.of(name, value, "left out: the file takes whole numbers from 0 to 255")


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
    head = adopted.head
    same = f"{head.same} has the numbers of the file's {adopted.file_output}; the scores are {head.logits}"
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
