"""What the calls return: small frozen dataclasses with numpy arrays in them.

A dataclass has the fields of the message of the same name, so `from_proto` needs no code for each.
"""

from convlens_client.results.array import Array
from convlens_client.results.attack import (
    AttackOutcome,
    Certificate,
    Robustness,
    RobustnessAlarms,
    RobustnessPoint,
)
from convlens_client.results.attribution import Attribution, Quality, RandomisedLayer, RankCorrelation
from convlens_client.results.collection import (
    Added,
    Collection,
    CollectionImage,
    CollectionMap,
    FeatureSet,
    Neighbour,
    Neighbours,
    TopActivation,
)
from convlens_client.results.job import (
    Artifact,
    Descent,
    JobMetadata,
    JobPicture,
    JobRequest,
    QueueStats,
    Snapshot,
)
from convlens_client.results.model import Classification, Layer, LoadedModel, Model, Prediction
from convlens_client.results.unit import Box, ReceptiveField, UnitHit, UnitPattern

__all__ = [
    "Added",
    "Array",
    "Artifact",
    "AttackOutcome",
    "Attribution",
    "Box",
    "Certificate",
    "Classification",
    "Collection",
    "CollectionImage",
    "CollectionMap",
    "Descent",
    "FeatureSet",
    "JobMetadata",
    "JobPicture",
    "JobRequest",
    "Layer",
    "LoadedModel",
    "Model",
    "Neighbour",
    "Neighbours",
    "Prediction",
    "Quality",
    "QueueStats",
    "RandomisedLayer",
    "RankCorrelation",
    "ReceptiveField",
    "Robustness",
    "RobustnessAlarms",
    "RobustnessPoint",
    "Snapshot",
    "TopActivation",
    "UnitHit",
    "UnitPattern",
]
