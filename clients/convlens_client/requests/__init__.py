"""What can be asked: one function a question, which builds the request and reads the reply, without any I/O.

`Client` and `AsyncClient` have a method for each, with the same arguments. A model is a name or
"name/version"; empty means the embedded default. Arguments left at None take the server's defaults, which the
protos state.
All methods may raise the errors of `convlens.errors`; a bad value is InvalidArgument and names its field.
"""

from convlens_client.requests.attack import attack, robustness
from convlens_client.requests.attribution import (
    TECHNIQUES,
    ClassScore,
    LogProbability,
    Neuron,
    Target,
    Technique,
    attribute,
    attribute_all,
)
from convlens_client.requests.inspection import activations, classify
from convlens_client.requests.job import (
    cancel,
    deepdream,
    delete,
    operation,
    operation_name,
    operations,
    read_artifact,
    submit,
    wait,
    watch,
)
from convlens_client.requests.model import filters, get_model, list_models, model_ref
from convlens_client.requests.unit import discrepancy_maps, unit_patterns

__all__ = [
    "TECHNIQUES",
    "ClassScore",
    "LogProbability",
    "Neuron",
    "Target",
    "Technique",
    "activations",
    "attack",
    "attribute",
    "attribute_all",
    "cancel",
    "classify",
    "deepdream",
    "delete",
    "discrepancy_maps",
    "filters",
    "get_model",
    "list_models",
    "model_ref",
    "operation",
    "operation_name",
    "operations",
    "read_artifact",
    "robustness",
    "submit",
    "unit_patterns",
    "wait",
    "watch",
]
