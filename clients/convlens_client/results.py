"""What the calls return: small frozen dataclasses with numpy arrays in them.

A dataclass has the fields of the message of the same name, so `freezing.freeze` needs no code for each.
"""

from __future__ import annotations

import dataclasses
import difflib
from datetime import datetime
from typing import Any

from numpy.typing import NDArray

from convlens.errors import ConvLensError, InvalidArgument

Array = NDArray[Any]
FINAL_STATES = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})


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

    def class_index(self, text: str) -> int:
        """Index of the class that `text` names: an index, a label, or a part that only one label has.

        Raises:
            InvalidArgument: no such class, or several; names some that are near.
        """
        if text.isdecimal():
            return int(text)
        wanted = text.casefold().strip()
        labels = [label.casefold() for label in self.labels]
        if wanted in labels:
            return labels.index(wanted)
        matches = [i for i, label in enumerate(labels) if wanted in label]
        if len(matches) == 1:
            return matches[0]
        near = matches or [labels.index(label) for label in difflib.get_close_matches(wanted, labels)]
        names = ", ".join(f"{self.labels[i]!r} ({i})" for i in near[:8]) or "none"
        raise InvalidArgument.of("class", text, f"an index or a label of {self.name}; near: {names}")


@dataclasses.dataclass(frozen=True, slots=True)
class Prediction:
    """A class with its softmax probability."""

    index: int
    label: str
    probability: float


@dataclasses.dataclass(frozen=True, slots=True)
class Classification:
    """Predictions for one image, best first."""

    predictions: tuple[Prediction, ...]

    @property
    def top(self) -> Prediction:
        """The best one."""
        return self.predictions[0]


@dataclasses.dataclass(frozen=True, slots=True)
class Attribution:
    """A target attributed to the pixels of N images.

    `values` and `class_indices` have one entry an image (no class indices for targets that are no classes);
    `map` is float32 of shape (N, 3, H, W) or (N, 1, H, W), in the units that the technique's message states.
    `completeness_residuals` come with integrated gradients; `insertion` (higher is better) and `deletion`
    (lower is better) where they were asked for.
    """

    values: tuple[float, ...]
    class_indices: tuple[int, ...]
    map: Array
    completeness_residuals: tuple[float, ...] = ()
    insertion: tuple[float, ...] = ()
    deletion: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class RankCorrelation:
    """Spearman's of two maps, in [-1, 1], and of their absolute values; NaN where one map is constant."""

    signed: float
    absolute: float


@dataclasses.dataclass(frozen=True, slots=True)
class RandomisedLayer:
    """`layer` and all above it are random: each map's correlation with that of the trained network."""

    layer: str
    correlations: tuple[RankCorrelation, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Certificate:
    """What an attack did to one image, measured; fields as in `convlens.v1.Certificate`."""

    linf: float
    l2: float
    before: Prediction
    after: Prediction
    after_encoding: Prediction
    success: bool
    success_after_encoding: bool
    queries: int
    linf_after_encoding: float


@dataclasses.dataclass(frozen=True, slots=True)
class AttackOutcome:
    """N attacked images: float32 arrays of shape (N, 3, H, W), pixels in [0, 1], signs in {-1, 0, 1}."""

    certificates: tuple[Certificate, ...]
    original: Array
    gradient_sign: Array
    adversarial: Array


@dataclasses.dataclass(frozen=True, slots=True)
class RobustnessPoint:
    """Accuracy under an attack at one epsilon; fields as in `convlens.v1.RobustnessPoint`."""

    epsilon: float
    accuracy: float
    noise_accuracy: float
    zero_gradient_share: float


@dataclasses.dataclass(frozen=True, slots=True)
class RobustnessAlarms:
    """Signs that the gradient is masked; fields as in `convlens.v1.RobustnessAlarms`."""

    zero_gradients: bool
    noise_beats_attack: bool
    survives_full_range: bool
    not_monotone: bool

    @property
    def raised(self) -> tuple[str, ...]:
        """The names of those that are true."""
        return tuple(field.name for field in dataclasses.fields(self) if getattr(self, field.name))


@dataclasses.dataclass(frozen=True, slots=True)
class Robustness:
    """A robust-accuracy curve, and what speaks against believing it."""

    points: tuple[RobustnessPoint, ...]
    alarms: RobustnessAlarms


@dataclasses.dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of pixels; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int


@dataclasses.dataclass(frozen=True, slots=True)
class UnitHit:
    """Where a unit is strongest in an image: value, row and column in its map, receptive field in pixels."""

    value: float
    y: int
    x: int
    box: Box


@dataclasses.dataclass(frozen=True, slots=True)
class UnitPattern:
    """What excites a unit in an image: guided backprop (signed) and pixels of its box, each (3, h, w)."""

    hit: UnitHit
    pattern: Array
    crop: Array


@dataclasses.dataclass(frozen=True, slots=True)
class ReceptiveField:
    """Where a unit looks, by discrepancy maps.

    `images` (N, 3, H, W) are the network's inputs, `maps` (N, H, W) the mean |change| of the unit when each
    pixel is occluded, and `field` (S, S) their average over the unit's theoretical receptive field. Sizes are
    sides in pixels: `theoretical_size` is S, `empirical_size` that of a square with the area above the
    threshold.
    """

    hits: tuple[UnitHit, ...]
    theoretical_size: int
    empirical_size: float
    images: Array
    maps: Array
    field: Array


@dataclasses.dataclass(frozen=True, slots=True)
class FeatureSet:
    """Features of a collection; fields as in `convlens.v1.FeatureSet`, with `pooling` such as "MEAN"."""

    model: str
    layer: str
    pooling: str
    dimension: int
    images: int


@dataclasses.dataclass(frozen=True, slots=True)
class Collection:
    """A set of images; fields as in `convlens.v1.Collection`."""

    id: str
    images: int
    total_bytes: int
    create_time: datetime | None
    features: tuple[FeatureSet, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class CollectionImage:
    """An image of a collection; fields as in `convlens.v1.CollectionImage`."""

    name: str
    digest: str
    width: int
    height: int
    bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class Added:
    """What became of an image that was to be added: `error` says why it was refused, else it is ""."""

    image: CollectionImage
    duplicate: bool
    error: str


@dataclasses.dataclass(frozen=True, slots=True)
class Neighbour:
    """A near image, its distance, and its thumbnail as a JPEG, where asked for."""

    image: CollectionImage
    distance: float
    thumbnail: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Neighbours:
    """Nearest first; `recall_at_10` is measured for approximate search, and 1 for exact search."""

    neighbours: tuple[Neighbour, ...]
    recall_at_10: float


@dataclasses.dataclass(frozen=True, slots=True)
class TopActivation:
    """An image that excites a unit; `crop` is a PNG of what it sees, `pattern` of its guided backprop."""

    image: CollectionImage
    hit: UnitHit
    crop: bytes
    pattern: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class CollectionMap:
    """Points (N, 2) in [0, 1], in the order of the images; shares of the variance (2,) of PCA, else None."""

    points: Array
    explained_variance: Array | None


@dataclasses.dataclass(frozen=True, slots=True)
class JobMetadata:
    """State of a job; fields as in `convlens.v1.JobMetadata`, with `state` such as "RUNNING", and `priority`
    "NORMAL", "HIGH" or "LOW"."""

    state: str
    technique: str
    model: str
    step: int
    total_steps: int
    losses: dict[str, float]
    queue_position: int
    attempt: int
    create_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    expire_time: datetime | None
    preview: bytes
    device: str
    model_digest: str
    cancel_requested: bool
    priority: str
    expected_seconds: float
    bit_exact: bool

    @property
    def final(self) -> bool:
        """True when the state will not change any more."""
        return self.state in FINAL_STATES


@dataclasses.dataclass(frozen=True, slots=True)
class QueueStats:
    """How a queue stands; fields as in `convlens.v1.QueueStats`."""

    priority: str
    queue: str
    queued: int
    running: int
    oldest_queued_seconds: float
    counters: dict[str, int]
    throughput: dict[str, float]


@dataclasses.dataclass(frozen=True, slots=True)
class Artifact:
    """A stored tensor, without its bytes."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    total_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """An operation as the server last told of it; `report` is one of `convlens_client.reports`."""

    name: str
    done: bool
    metadata: JobMetadata
    error: ConvLensError | None
    artifacts: tuple[Artifact, ...]
    report: Any = None
