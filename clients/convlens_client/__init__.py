"""The client of ConvLens: numpy arrays in and out, over gRPC, and nothing heavy to install.

>>> from convlens_client import Client
>>> client = Client("127.0.0.1:8500")
>>> client.classify("cat.jpg")[0].top.label  # doctest: +SKIP
'tabby'
"""

from convlens import errors
from convlens_client.aio import AsyncClient, AsyncOperation
from convlens_client.client import Client, Operation
from convlens_client.requests import ClassScore, LogProbability, Neuron
from convlens_client.results import (
    AttackOutcome,
    Attribution,
    Box,
    Certificate,
    Classification,
    JobMetadata,
    Layer,
    Model,
    Prediction,
    ReceptiveField,
    Robustness,
    RobustnessAlarms,
    RobustnessPoint,
    UnitHit,
    UnitPattern,
)

__all__ = [
    "AsyncClient",
    "AsyncOperation",
    "AttackOutcome",
    "Attribution",
    "Box",
    "Certificate",
    "ClassScore",
    "Classification",
    "Client",
    "JobMetadata",
    "Layer",
    "LogProbability",
    "Model",
    "Neuron",
    "Operation",
    "Prediction",
    "ReceptiveField",
    "Robustness",
    "RobustnessAlarms",
    "RobustnessPoint",
    "UnitHit",
    "UnitPattern",
    "errors",
]
