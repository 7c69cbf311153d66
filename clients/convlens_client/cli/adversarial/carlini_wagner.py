"""`convlens adversarial carlini-wagner`: the smallest change in L2, by Adam on a margin of logits."""

from __future__ import annotations

from typing import Any

from convlens_client.cli.adversarial.common import ATTACK
from convlens_client.cli.attack import Target
from convlens_client.cli.common import Image
from convlens_client.cli.following import finish
from convlens_client.cli.options import Shared, command
from convlens_client.requests import adversarial


@command(*ATTACK, "frame", request=adversarial.carlini_wagner)
def carlini_wagner(given: Shared, image: Image, *, target: Target = None, **parameters: Any) -> None:
    """Make the model see another class by the smallest change in L2 (Carlini & Wagner 2017).

    Example: convlens adversarial carlini-wagner cat.jpg --target dots
    """
    targets = () if target is None else given.class_index(target)
    operation = given.client.carlini_wagner(given.picture(image), targets=targets, **parameters)
    finish(given, operation, f"{image.stem}-adversarial.png")
