"""The client of ConvLens: numpy arrays in and out, over gRPC, and nothing heavy to install.

>>> from convlens_client import Client
>>> client = Client("127.0.0.1:8500")
>>> client.classify("cat.jpg")[0].top.label  # doctest: +SKIP
'tabby'
"""

from convlens import errors
from convlens_client.aio import AsyncClient, AsyncOperation
from convlens_client.client import Client, Operation
from convlens_client.images import read_image
from convlens_client.requests.adversarial import Transforms
from convlens_client.requests.synthesis import Style
from convlens_client.requests.target import (
    Caricature,
    Channel,
    ClassScore,
    Direction,
    LogProbability,
    Neuron,
    Of,
)
from convlens_client.results import (
    Added,
    AttackOutcome,
    Attribution,
    Box,
    Certificate,
    Classification,
    Collection,
    CollectionImage,
    CollectionMap,
    JobMetadata,
    Layer,
    Model,
    Neighbours,
    Prediction,
    QueueStats,
    RandomisedLayer,
    RankCorrelation,
    ReceptiveField,
    Robustness,
    RobustnessAlarms,
    RobustnessPoint,
    TopActivation,
    UnitHit,
    UnitPattern,
)

__all__ = [
    "Added",
    "AsyncClient",
    "AsyncOperation",
    "AttackOutcome",
    "Attribution",
    "Box",
    "Caricature",
    "Certificate",
    "Channel",
    "ClassScore",
    "Classification",
    "Client",
    "Collection",
    "CollectionImage",
    "CollectionMap",
    "Direction",
    "JobMetadata",
    "Layer",
    "LogProbability",
    "Model",
    "Neighbours",
    "Neuron",
    "Of",
    "Operation",
    "Prediction",
    "QueueStats",
    "RandomisedLayer",
    "RankCorrelation",
    "ReceptiveField",
    "Robustness",
    "RobustnessAlarms",
    "RobustnessPoint",
    "Style",
    "TopActivation",
    "Transforms",
    "UnitHit",
    "UnitPattern",
    "errors",
    "read_image",
]
