"""What is known about a stored network: `manifest.json` of a version in the model repository."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from convlens.errors import InvalidArgument

NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9._-]{0,63}$"
ONNX: Final = "onnx"
"""The architecture of networks that came as ONNX files."""
RENAMED: Final = "Identity"
"""The kind of a layer that only renames a value, as a pool does which has nothing to do at the one size."""
INPUT: Final = "image"
PROBABILITIES: Final = "probabilities"
LOG_PROBABILITIES: Final = "log_probabilities"

LATER: Final = (
    *("task", "class_ids", "parent", "notes", "output_kind", "interpolation"),
    *("size_multiple", "proof"),
)
"""Fields that the first manifests did not have."""

Task = Literal["classification", "style"]
OutputKind = Literal["scores", "probabilities", "log-probabilities", "sigmoid", "multilabel"]
Interpolation = Literal["bilinear", "bicubic"]
Rgb = tuple[float, float, float]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Layer(BaseModel):
    """A named value inside a network.

    Attributes:
        name: torchvision's module path, such as "features.3"; "probabilities" and "log_probabilities" are
            layers of every model.
        kind: operator or block, such as "Conv2d", "ReLU", "Fire".
        tensor: name of the value in `forward.onnx`.
        shape: of one image's value at the model's input size, without the batch axis.
        stride: input pixels between neighbouring positions; 0 when a position sees the whole input.
        receptive_field: side in input pixels; of the square around it, where the two axes differ.
        receptive_field_start: input coordinate of the field's centre at position 0; pixel centres are whole.
        weight: key of the layer's kernel in `weights.safetensors`, if it has one.
        any_size: whether the import of a graph of one size has proven that the layer, which comes before the
            head, is computed at every size.
        receptive_field_starts: `receptive_field_start` of images whose side leaves the remainder 0, 1, ...
            when divided by `stride`; empty where it is the same for all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: str
    tensor: str
    shape: tuple[int, ...]
    stride: int
    receptive_field: int
    receptive_field_start: float
    weight: str | None = None
    any_size: bool = False
    receptive_field_starts: tuple[float, ...] = ()


class Batching(BaseModel):
    """How a server with a GPU joins concurrent calls into one pass.

    Attributes:
        max_batch: images of a pass; calls with as many of their own run alone.
        max_delay_ms: that the first call waits for others.
        queue: whether a call that finds `max_queue` calls waiting waits too, or is refused.
        max_queue: calls that may wait for a pass.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_batch: Annotated[int, Field(ge=2, le=1024)] = 16
    max_delay_ms: Annotated[float, Field(ge=0, le=1000)] = 2.0
    queue: Literal["block", "reject"] = "block"
    max_queue: Annotated[int, Field(ge=1)] = 256


class Proof(BaseModel):
    """What the import of a file has measured of the network against the file itself.

    Attributes:
        scores: largest difference from ONNX Runtime's run of the file, relative to the largest score.
        slopes: error of the gradient relative to its length, from differences in float64; None where the file
            rounds its values, so that there are none.
        batches: images that were run at once.
        sizes: heights and widths in pixels.
        notes: what was decided at the import, and why.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scores: float
    slopes: float | None
    batches: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    notes: tuple[str, ...] = ()


class Manifest(BaseModel):
    """A version of a model: all that a caller may know without opening the graph.

    Attributes:
        task: what it is for: a classifier, or a network that paints images in one style (its output is an
            image of the input's size, and it has no labels).
        input_size: side of the square input it was made for, in pixels.
        min_size: smallest side that it accepts, in pixels; equals `input_size` unless `dynamic_size`.
        size_multiple: sides may differ from `input_size` by multiples of this; 1 unless pads follow from the
            size.
        mean, std: what the graph itself subtracts from and divides RGB in [0, 1] by.
        interpolation: how pictures are brought to size, always with antialiasing.
        class_ids: identifiers of the classes in WordNet, "" for a class without; empty where none are known.
        output: name of the layer that holds the logits, of shape (classes,).
        output_kind: what the file gave that the network came from. Probabilities are the softmax of the
            logits, but for "multilabel": its classes are independent, and each has the sigmoid of its own.
        dream_layers: layers that DeepDream amplifies unless told otherwise.
        files: SHA-256 of every file of the version but this one.
        notes: what the import did to the file that a caller should know, one sentence each.
        batching: whether and how concurrent calls become one pass on a GPU; may be edited by hand, and counts
            when the model is loaded next.
        parent: the version that its training went on from, as "name/version"; empty where it began anew.
        proof: what its import has measured; None where nothing was there to hold it against.
        digest: SHA-256 of this manifest apart from `name`, `version`, `parent`, `batching`, `proof` and
            itself, so that what has the same digest computes the same.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    version: Annotated[int, Field(ge=1)]
    architecture: str
    engine: Literal["onnx", "torchscript"] = "onnx"
    task: Task = "classification"
    input_size: Annotated[int, Field(ge=1)]
    min_size: Annotated[int, Field(ge=1)]
    dynamic_size: bool
    size_multiple: Annotated[int, Field(ge=1)] = 1
    mean: Rgb
    std: Rgb
    interpolation: Interpolation = "bilinear"
    labels: tuple[str, ...]
    class_ids: tuple[str, ...] = ()
    layers: tuple[Layer, ...]
    dream_layers: tuple[str, ...] = ()
    output: str
    output_kind: OutputKind = "scores"
    parameters: int
    multiply_adds: int
    notes: tuple[str, ...] = ()
    files: dict[str, Sha256]
    batching: Batching | None = None
    parent: str = ""
    proof: Proof | None = None
    digest: str = ""

    def layer(self, name: str, field: str = "layer") -> Layer:
        """The layer called `name`. Raises InvalidArgument, with the nearest names, if there is none."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        names = [layer.name for layer in self.layers]
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[:3]
        raise InvalidArgument.of(field, name, f"a layer of {self.name}, such as {', '.join(near)}")

    def read_at(self, layers: Iterable[str]) -> Self:
        """This network as those know it who read `layers` alone: any size, where these come before its head.

        A linear head has one size; convolutions take any that leaves each of the layers a position.
        """
        read = [self.layer(name) for name in layers]
        if self.dynamic_size or not read or not all(map(self.least_side, read)):
            return self
        # TorchScript runs all layers, whichever are asked for.
        run = self.layers if self.engine == "torchscript" else read
        return self.model_copy(update={"dynamic_size": True, "min_size": max(map(self.least_side, run))})

    def least_side(self, layer: Layer) -> int:
        """The smallest side of an image that `layer` can be read of; 0 if it is read at the one size alone.

        Of built-in networks of one size all maps before the head take any, of graphs those for which their
        import has proven it.
        """
        if self.dynamic_size:
            return self.min_size
        opens = layer.any_size if self.architecture == ONNX else layer.kind != RENAMED
        if not opens or len(layer.shape) != 3 or not layer.stride:
            return 0
        return max(1, self.input_size - (min(layer.shape[1:]) - 1) * layer.stride)

    def takes(self, height: int, width: int) -> bool:
        """Whether images may have these sides, as far as multiples go."""
        return all((side - self.input_size) % self.size_multiple == 0 for side in (height, width))

    @property
    def steps(self) -> str:
        """What a message tells of the sides that images may have, where not all will do."""
        step, rest = self.size_multiple, self.input_size % self.size_multiple
        return "" if step == 1 else f", multiples of {step}" + (f" plus {rest}" if rest else "")

    @property
    def independent(self) -> bool:
        """Whether each class has a probability of its own, so that a picture may be of several or none."""
        return self.output_kind == "multilabel"

    @property
    def why_one_size(self) -> str:
        """What a message tells of the only size that images may have."""
        size = f"the one size that {self.name} accepts"
        taking = [position for position, layer in enumerate(self.layers) if self.least_side(layer)]
        if not taking:
            return f"{size}: none of its layers is known to take others"
        return f"{size} where its head is read, from {self.layers[taking[-1] + 1].name} on"

    @property
    def unsaid(self) -> set[str]:
        """The fields that came later and say nothing here: digests and files are as they were before them."""
        fields = type(self).model_fields
        return {name for name in LATER if getattr(self, name) == fields[name].default}

    def sealed(self) -> Self:
        """This manifest with its digest filled in."""
        return self.model_copy(update={"digest": self._digest()})

    @model_validator(mode="after")
    def _digest_matches(self) -> Self:
        if self.digest and self.digest != self._digest():
            raise ValueError("the manifest does not match its own digest")
        return self

    def _digest(self) -> str:
        content = self.model_dump(
            mode="json", exclude={"name", "version", "parent", "batching", "proof", "digest"}
        )
        for name in self.unsaid & content.keys():  # So that versions which are older keep their digest.
            del content[name]
        for layer in content["layers"]:
            for field in ("any_size", "receptive_field_starts"):
                if not layer[field]:
                    del layer[field]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
