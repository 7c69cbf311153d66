"""`convlens adversarial printed`: which attacks survive being printed and photographed."""

from __future__ import annotations

from typing import Any

from convlens_client.cli.adversarial.common import ATTACK
from convlens_client.cli.common import Photos, photos_in
from convlens_client.cli.following import finish
from convlens_client.cli.labels import Labelled
from convlens_client.cli.options import command
from convlens_client.requests import adversarial


@command("seed", *ATTACK, request=adversarial.printed_photo)
def printed(given: Labelled, pictures: Photos, **parameters: Any) -> None:
    """Attack photos, print and photograph them, and count what is undone by it (Kurakin et al. 2017).

    Example: convlens adversarial printed photos --labels-from-names
    """
    paths = photos_in(pictures)
    operation = given.client.printed_photo(paths, given.classes(paths), **parameters)
    finish(given, operation, "printed.png")
