"""`convlens adversarial ensemble`: the accuracy that several attacks without settings leave together."""

from __future__ import annotations

from typing import Any

from convlens_client.cli.adversarial.common import ATTACK
from convlens_client.cli.common import Photos, photos_in
from convlens_client.cli.following import finish
from convlens_client.cli.labels import Labelled
from convlens_client.cli.options import command
from convlens_client.requests import adversarial


@command("seed", *ATTACK, request=adversarial.attack_ensemble)
def ensemble(given: Labelled, pictures: Photos, **parameters: Any) -> None:
    """Attack by APGD-CE, APGD-T and Square in turn: what stands is the worst case (Croce & Hein 2020).

    Example: convlens adversarial ensemble photos --labels-from-names --eps 4/255
    """
    paths = photos_in(pictures)
    operation = given.client.attack_ensemble(paths, given.classes(paths), **parameters)
    finish(given, operation, "ensemble.png")
