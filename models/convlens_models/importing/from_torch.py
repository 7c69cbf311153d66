"""Brings a PyTorch module into the model repository: exported, held against itself, and imported as ONNX."""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from convlens.errors import InvalidArgument
from convlens_models.importing import factories, verify
from convlens_models.importing.onnx_import import DEFAULT_SIZE, InputRange, add_onnx
from convlens_models.importing.weights import aligned, check_state, load_state
from convlens_models.manifest import INPUT, Manifest, OutputKind, Rgb

FIELD: Final = "torch"
SCORES: Final = "scores"
OPSET: Final = 18
CLOSE: Final = 1e-4
"""Of the largest score: how far an exported graph may be from its module."""


class Way(NamedTuple):
    """How to export: by which of PyTorch's two exporters, and whether height and width stay open."""

    dynamo: bool
    open_size: bool

    def __str__(self) -> str:
        exporter = "torch.export" if self.dynamo else "tracing"
        return f"by {exporter}, {'any size' if self.open_size else 'one size'}"


WAYS: Final = (Way(False, True), Way(False, False), Way(True, True), Way(True, False))
"""In the order in which they are tried; tracing takes a tenth of the other's time."""


def add_torch(
    root: Path,
    factory: str,
    name: str | None = None,
    weights: Path | None = None,
    labels: Path | None = None,
    *,
    mean: Rgb | None = None,
    std: Rgb | None = None,
    input_range: InputRange | None = None,
    bgr: bool = False,
    input_size: int | None = None,
    output_kind: OutputKind | None = None,
) -> Manifest:
    """Add the network that a factory builds; it runs the factory's code. Options as in `add_onnx`.

    Args:
        factory: "module:function" as in `factories.build`, where arguments may follow in parentheses.
        name: in the repository; None: that of the function.
        weights: a file as `load_state` reads it; None: those that the factory puts in.
        mean, std, input_size: None: what timm says of its network, where it is one.

    Raises:
        InvalidArgument: the factory fails or makes no module, the weights do not fit, or as `add_module`.
    """
    call = factories.parse(factory)
    state: Mapping[str, Tensor] | None = load_state(weights) if weights else None
    module = factories.build(call, state)
    if state is not None:
        state = aligned(state, module.state_dict())
        check_state(state, module)
        module.load_state_dict(state, strict=False)
    known = factories.preprocessing(module)
    return add_module(
        module,
        name or call.name,
        labels,
        root=root,
        mean=mean or known.mean,
        std=std or known.std,
        input_range=input_range,
        bgr=bgr,
        input_size=input_size or known.size,
        output_kind=output_kind,
    )


def add_module(
    module: nn.Module,
    name: str,
    labels: Path | None = None,
    *,
    root: Path,
    mean: Rgb | None = None,
    std: Rgb | None = None,
    input_range: InputRange | None = None,
    bgr: bool = False,
    input_size: int | None = None,
    output_kind: OutputKind | None = None,
) -> Manifest:
    """Add a classifier in PyTorch as the newest version of `name`; the module stays as it is.

    Exported at float32 and for inference. The graph's scores must be the module's on random pictures, of
    other sizes too where it takes them; then the graph is imported, and proven again, as any ONNX file is.

    Args:
        module: float32 (N, 3, H, W) to (N, classes), alone, in a tuple or dict, or as an attribute `logits`.
        root: folder of the repository. The other options are those of `add_onnx`.

    Raises:
        InvalidArgument: the module fails on a picture, or no way of exporting it gives a graph that computes
            the same and can be differentiated; says what stood in each way.
    """
    size = input_size or DEFAULT_SIZE
    subject = _subject(module, size)
    obstacles: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            file = Path(folder) / f"{WAYS.index(way)}.onnx"
            try:
                _export(subject, file, size, way)
                _compare(subject, file, size, way)
                return add_onnx(
                    root,
                    file,
                    name,
                    labels,
                    mean=mean,
                    std=std,
                    input_range=input_range,
                    bgr=bgr,
                    input_size=size,
                    output_kind=output_kind,
                    one_size=not way.open_size,
                )
            except InvalidArgument as error:
                if error.field not in (FIELD, None) and not error.field.startswith("model"):
                    raise  # An option is wrong, and stays so.
                obstacles.setdefault(str(error), str(way))
    told = "; ".join(f"{way}: {obstacle}" for obstacle, way in obstacles.items())
    raise InvalidArgument(f"{FIELD}: it cannot be imported: {told}", field=FIELD)


def _scores(output: object) -> Tensor:
    """The one tensor (N, classes) in what a module gives. Raises InvalidArgument where there are others."""
    output = getattr(output, "logits", output)
    values: Sequence[object] = [output]
    if isinstance(output, Mapping):
        values = list(output.values())
    elif isinstance(output, tuple | list):
        values = output
    found = [value for value in values if isinstance(value, Tensor) and value.ndim == 2]
    if len(found) != 1:
        shapes = [
            list(value.shape) if isinstance(value, Tensor) else type(value).__name__ for value in values
        ]
        raise InvalidArgument.of(FIELD, f"a module that gives {shapes}", "one that gives scores (N, classes)")
    return found[0]


def _subject(module: nn.Module, size: int) -> nn.Module:
    """A copy of `module` for inference on the CPU, which gives a tensor."""
    subject = copy.deepcopy(module).cpu().float().eval().requires_grad_(False)
    forward = subject.forward
    # In the place of the module's own, and not around it, so that layers keep their names.
    subject.forward = lambda images: _scores(forward(images))
    _call(subject, torch.from_numpy(verify.noise(1, size)))
    return subject


def _call(module: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        try:
            scores: Tensor = module(images)
        except InvalidArgument:
            raise
        except Exception as error:  # Whatever is raised by code that others wrote.
            text = f"{FIELD}: the module fails on images {list(images.shape)}: {factories.first_line(error)}"
            raise InvalidArgument(text, field=FIELD) from error
    return scores


def _export(module: nn.Module, file: Path, size: int, way: Way) -> None:
    """Write `module` as ONNX, its batch open."""
    axes = {0: "N", 2: "H", 3: "W"} if way.open_size else {0: "N"}
    # Two images, for torch.export takes what is 1 for a constant.
    images = torch.from_numpy(verify.noise(2, size))
    how: dict[str, Any] = {"dynamic_axes": {INPUT: axes, SCORES: {0: "N"}}}
    if way.dynamo:
        how = {"dynamic_shapes": (axes,)}
    how |= {"input_names": [INPUT], "output_names": [SCORES]}
    try:
        with _silence():
            torch.onnx.export(module, (images,), file, dynamo=way.dynamo, opset_version=OPSET, **how)
    except Exception as error:  # PyTorch's exporters raise whatever they stumble over.
        raise InvalidArgument(f"{FIELD}: {factories.first_line(error)}", field=FIELD) from error


def _compare(module: nn.Module, file: Path, size: int, way: Way) -> None:
    """Raise InvalidArgument unless the graph gives the scores of the module, and takes the sizes it takes."""
    model = onnx.load(file)
    sizes = [(1, size, size), (3, size, size)]
    if way.open_size:
        sizes += [(1, size + 33, size + 33), (2, size + 51, size + 7)]
    for batch, height, width in sizes:
        images = verify.noise(batch, max(height, width))[..., :height, :width]
        expected = _call(module, torch.from_numpy(images.copy())).numpy()
        (found,) = verify.run(model, file.parent, [SCORES], {INPUT: np.ascontiguousarray(images)})
        if found.shape != expected.shape or np.abs(found - expected).max() > CLOSE * np.abs(expected).max():
            text = f"the graph's scores are not the module's on {batch} images of {height} x {width}"
            raise InvalidArgument(f"{FIELD}: {text}", field=FIELD)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """What exporters print and warn of is nothing that a user could act on; what they raise is kept."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
