"""`convlens adversarial lbfgs`: the smallest change towards a class, by L-BFGS."""

from __future__ import annotations

from typing import Any

from convlens_client.cli.adversarial.common import ATTACK, Target
from convlens_client.cli.common import Image
from convlens_client.cli.following import finish
from convlens_client.cli.options import Shared, command
from convlens_client.requests import adversarial


@command(*ATTACK, "frame", request=adversarial.lbfgs_attack)
def lbfgs(given: Shared, image: Image, *, target: Target, **parameters: Any) -> None:
    """Make the model see another class by the smallest change (Szegedy et al. 2014).

    Example: convlens adversarial lbfgs cat.jpg --target dots --out change.png
    """
    operation = given.client.lbfgs_attack(given.picture(image), given.class_index(target), **parameters)
    finish(given, operation, f"{image.stem}-adversarial.png")
