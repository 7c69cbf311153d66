"""What jobs report beside their artifacts: dataclasses with the fields of the messages of the same name."""

from __future__ import annotations

import dataclasses

from convlens_client.results import Certificate


@dataclasses.dataclass(frozen=True, slots=True)
class AttackResult:
    """What an attack did, image by image."""

    certificates: tuple[Certificate, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class DreamtLayer:
    """Channels of a layer that a dream amplified; fields as in `convlens.v1.DreamtLayer`."""

    layer: str
    channels: tuple[int, ...]
    means: tuple[float, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class DreamReport:
    """What a dream chose by itself; fields as in `convlens.v1.DreamReport`."""

    layers: tuple[DreamtLayer, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class PatchReport:
    """How often a patch works; fields as in `convlens.v1.PatchReport`."""

    success: float
    noise_success: float
    clean_success: float
    placements: int


@dataclasses.dataclass(frozen=True, slots=True)
class DefenceReport:
    """What accuracy a defence keeps; fields as in `convlens.v1.DefenceReport`."""

    clean_accuracy: float
    plain_accuracy: float
    accuracy: float
    undefended_accuracy: float
    certificates: tuple[Certificate, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class EnsembleMember:
    """One attack of an ensemble; fields as in `convlens.v1.EnsembleMember`."""

    attack: str
    attacked: int
    broken: int
    queries: int
    accuracy: float


@dataclasses.dataclass(frozen=True, slots=True)
class EnsembleReport:
    """What accuracy an ensemble leaves; fields as in `convlens.v1.EnsembleReport`."""

    clean_accuracy: float
    accuracy: float
    members: tuple[EnsembleMember, ...]
    certificates: tuple[Certificate, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class AttributedTarget:
    """What an attribution was of; fields as in `convlens.v1.AttributedTarget`, one an image each."""

    values: tuple[float, ...]
    class_indices: tuple[int, ...]
    completeness_residuals: tuple[float, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class AttributeResult:
    """The targets of attributions that were a job, in the order of its artifacts."""

    targets: tuple[AttributedTarget, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class TransferReport:
    """Which models stand in a transfer matrix, and how well they do without an attack."""

    models: tuple[str, ...]
    accuracies: tuple[float, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class SubstituteReport:
    """How good a copy is; fields as in `convlens.v1.SubstituteReport`."""

    agreement: tuple[float, ...]
    queries: int
    measuring_queries: int
    transfer: float
    noise_transfer: float
    white_box: float


@dataclasses.dataclass(frozen=True, slots=True)
class PrintedRow:
    """One attack at one epsilon; fields as in `convlens.v1.PrintedRow`."""

    attack: str
    epsilon: float
    success: float
    destruction: float


@dataclasses.dataclass(frozen=True, slots=True)
class PrintedReport:
    """What printing and photographing undoes; fields as in `convlens.v1.PrintedReport`."""

    rows: tuple[PrintedRow, ...]
    clean_accuracy: float


@dataclasses.dataclass(frozen=True, slots=True)
class TrainStyleReport:
    """The style network that a training has put into the repository."""

    model: str


@dataclasses.dataclass(frozen=True, slots=True)
class DatasetExamples:
    """Images of a collection that excite an objective most, strongest first, by their SHA-256."""

    values: tuple[float, ...]
    images: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class VisualisedObjective:
    """What the pictures of an objective show, and its value at each variant."""

    name: str
    values: tuple[float, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class VisualisationReport:
    """What each objective is, and its dataset examples, where there are any."""

    examples: tuple[DatasetExamples, ...]
    objectives: tuple[VisualisedObjective, ...] = ()
