"""`convlens adversarial expectation`: a change that keeps its target however the picture is seen."""

from __future__ import annotations

from typing import Any

from convlens_client.cli.adversarial.common import ATTACK, Target
from convlens_client.cli.common import Image
from convlens_client.cli.following import finish
from convlens_client.cli.options import Shared, command
from convlens_client.requests import adversarial


@command("seed", *ATTACK, "frame", request=adversarial.expectation_attack)
def expectation(given: Shared, image: Image, *, target: Target, **parameters: Any) -> None:
    """Make the model see another class however a picture is turned and lit (Athalye et al. 2018).

    Example: convlens adversarial expectation cat.jpg --target dots --rotation 45
    """
    operation = given.client.expectation_attack(given.picture(image), given.class_index(target), **parameters)
    finish(given, operation, f"{image.stem}-{target}.png")
