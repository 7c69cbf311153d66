"""What can be asked: one function a question, which builds the request and reads the reply, without any I/O.

`Client` and `AsyncClient` have a method for each, with the same arguments. A model is a name or
"name/version"; empty means the embedded default. Arguments left at None take the server's defaults, which the
protos state.
All methods may raise the errors of `convlens.errors`; a bad value is InvalidArgument and names its field.
"""

from convlens_client.requests.adversarial import (
    Transforms,
    adversarial_patch,
    attack_ensemble,
    carlini_wagner,
    defence_attack,
    expectation_attack,
    lbfgs_attack,
    printed_photo,
    substitute,
    transfer_matrix,
)
from convlens_client.requests.attack import attack, robustness
from convlens_client.requests.attribution import (
    TECHNIQUES,
    Technique,
    attribute,
    attribute_all,
    check_randomisation,
)
from convlens_client.requests.collection import (
    add_images,
    create_collection,
    delete_collection,
    extract_features,
    get_collection,
    get_image,
    list_collections,
    list_images,
    map_collection,
    nearest,
    top_activations,
)
from convlens_client.requests.inspection import activations, classify
from convlens_client.requests.job import (
    cancel,
    delete,
    job_stats,
    operation,
    operation_name,
    operations,
    read_artifact,
    submit,
    wait,
    watch,
)
from convlens_client.requests.model import (
    filters,
    get_model,
    list_models,
    load_model,
    loaded_models,
    model_ref,
    unload_model,
)
from convlens_client.requests.style import stylise, train_style
from convlens_client.requests.synthesis import Style, deepdream, style_transfer, texture, visualise
from convlens_client.requests.target import (
    Channel,
    ClassScore,
    Direction,
    LogProbability,
    Neuron,
    Target,
)
from convlens_client.requests.unit import discrepancy_maps, measure_receptive_field, unit_patterns

__all__ = [
    "TECHNIQUES",
    "Channel",
    "ClassScore",
    "Direction",
    "LogProbability",
    "Neuron",
    "Style",
    "Target",
    "Technique",
    "Transforms",
    "activations",
    "add_images",
    "adversarial_patch",
    "attack",
    "attack_ensemble",
    "attribute",
    "attribute_all",
    "cancel",
    "carlini_wagner",
    "check_randomisation",
    "classify",
    "create_collection",
    "deepdream",
    "defence_attack",
    "delete",
    "delete_collection",
    "discrepancy_maps",
    "expectation_attack",
    "extract_features",
    "filters",
    "get_collection",
    "get_image",
    "get_model",
    "job_stats",
    "lbfgs_attack",
    "list_collections",
    "list_images",
    "list_models",
    "load_model",
    "loaded_models",
    "map_collection",
    "measure_receptive_field",
    "model_ref",
    "nearest",
    "operation",
    "operation_name",
    "operations",
    "printed_photo",
    "read_artifact",
    "robustness",
    "style_transfer",
    "stylise",
    "submit",
    "substitute",
    "texture",
    "top_activations",
    "train_style",
    "transfer_matrix",
    "unit_patterns",
    "unload_model",
    "visualise",
    "wait",
    "watch",
]
