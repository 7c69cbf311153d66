"""Attacks that iterate, as jobs; one file a family of attacks."""

from convlens_client.requests.adversarial.minimal import carlini_wagner, lbfgs_attack
from convlens_client.requests.adversarial.physical import (
    Transforms,
    adversarial_patch,
    expectation_attack,
    printed_photo,
)
from convlens_client.requests.adversarial.robustness import (
    attack_ensemble,
    defence_attack,
    transfer_matrix,
)
from convlens_client.requests.adversarial.substitute import substitute

__all__ = [
    "Transforms",
    "adversarial_patch",
    "attack_ensemble",
    "carlini_wagner",
    "defence_attack",
    "expectation_attack",
    "lbfgs_attack",
    "printed_photo",
    "substitute",
    "transfer_matrix",
]
