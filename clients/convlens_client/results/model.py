"""Networks of the repository, and their predictions for images."""

from __future__ import annotations

import dataclasses
import difflib

from convlens.errors import InvalidArgument


@dataclasses.dataclass(frozen=True, slots=True)
class Layer:
    """A named value inside a network; fields as in `convlens.v1.Layer`."""

    name: str
    kind: str
    shape: tuple[int, ...]
    stride: int
    receptive_field: int
    has_weights: bool
    receptive_field_start: float
    least_side: int
    receptive_field_starts: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class LoadedModel:
    """A version of a model in the server's memory; fields as in `convlens.v1.LoadedModel`."""

    name: str
    version: int
    digest: str
    sessions: int
    bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class Model:
    """A network of the repository; fields as in `convlens.v1.Model`."""

    name: str
    version: int
    architecture: str
    engine: str
    input_size: int
    dynamic_size: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    labels: tuple[str, ...]
    layers: tuple[Layer, ...]
    parameters: int
    multiply_adds: int
    digest: str
    task: str
    parent: str
    class_ids: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    output_kind: str = ""
    interpolation: str = "bilinear"

    @property
    def independent(self) -> bool:
        """Whether each class has a probability of its own: a picture may be of several classes or of none."""
        return self.output_kind == "multilabel"

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The names of the layers; none where the model came from a list."""
        return tuple(layer.name for layer in self.layers)

    def class_index(self, text: str) -> int:
        """Index of the class that `text` names: an index, a label, or a part that only one label has.

        An identifier of WordNet, such as "n02123045", where the model knows those of its classes.

        Raises:
            InvalidArgument: no such class, or several, as two classes may bear one label; names those.
        """
        wanted = text.casefold().strip()
        if wanted.isdecimal():
            return int(wanted)
        if wanted and wanted in self.class_ids:
            return self.class_ids.index(wanted)
        labels = [label.casefold() for label in self.labels]
        exact = [i for i, label in enumerate(labels) if label == wanted]
        matches = exact or [i for i, label in enumerate(labels) if wanted in label]
        if len(matches) == 1:
            return matches[0]
        near = matches or [labels.index(label) for label in difflib.get_close_matches(wanted, labels)]
        names = ", ".join(f"{self.labels[i]!r} ({i})" for i in near[:8]) or "none"
        if exact:
            raise InvalidArgument.of("class", text, f"an index, as several classes are called so: {names}")
        raise InvalidArgument.of("class", text, f"an index or a label of {self.name}; near: {names}")


@dataclasses.dataclass(frozen=True, slots=True)
class Prediction:
    """A class with its probability: by softmax, or of independent classes by a sigmoid of its own."""

    index: int
    label: str
    probability: float


@dataclasses.dataclass(frozen=True, slots=True)
class Classification:
    """Predictions for one image, best first."""

    predictions: tuple[Prediction, ...]

    @property
    def top(self) -> Prediction:
        """The prediction with the largest probability."""
        return self.predictions[0]
