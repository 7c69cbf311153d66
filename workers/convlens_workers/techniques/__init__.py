"""The long techniques, one file each, by their name in SubmitJobRequest."""

from __future__ import annotations

from typing import Final

from convlens_workers.techniques.adversarial_patch import adversarial_patch
from convlens_workers.techniques.attack_ensemble import attack_ensemble
from convlens_workers.techniques.base import Technique
from convlens_workers.techniques.carlini_wagner import carlini_wagner
from convlens_workers.techniques.deepdream import deepdream
from convlens_workers.techniques.defence_attack import defence_attack
from convlens_workers.techniques.expectation_attack import expectation_attack
from convlens_workers.techniques.extract_features import extract_features
from convlens_workers.techniques.feature_visualisation import feature_visualisation
from convlens_workers.techniques.lbfgs_attack import lbfgs_attack
from convlens_workers.techniques.measure_receptive_field import measure_receptive_field
from convlens_workers.techniques.printed_photo import printed_photo
from convlens_workers.techniques.style_transfer import style_transfer
from convlens_workers.techniques.substitute import substitute
from convlens_workers.techniques.texture import texture
from convlens_workers.techniques.train_style import train_style
from convlens_workers.techniques.transfer_matrix import transfer_matrix

TECHNIQUES: Final[dict[str, Technique]] = {
    "adversarial_patch": adversarial_patch,
    "attack_ensemble": attack_ensemble,
    "carlini_wagner": carlini_wagner,
    "deepdream": deepdream,
    "defence_attack": defence_attack,
    "expectation_attack": expectation_attack,
    "extract_features": extract_features,
    "feature_visualisation": feature_visualisation,
    "lbfgs_attack": lbfgs_attack,
    "measure_receptive_field": measure_receptive_field,
    "printed_photo": printed_photo,
    "style_transfer": style_transfer,
    "substitute": substitute,
    "texture": texture,
    "train_style": train_style,
    "transfer_matrix": transfer_matrix,
}
