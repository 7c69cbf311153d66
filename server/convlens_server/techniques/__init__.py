"""The quick techniques, by their arm of the request's `technique` oneof."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from convlens_server.techniques.base import Attack, Attribution
from convlens_server.techniques.bim import bim
from convlens_server.techniques.deconvnet import deconvnet
from convlens_server.techniques.fgsm import fgsm
from convlens_server.techniques.gradient import gradient
from convlens_server.techniques.guided_backprop import guided_backprop
from convlens_server.techniques.pgd import pgd

ATTRIBUTIONS: Final[Mapping[str, Attribution]] = {
    "gradient": gradient,
    "guided_backprop": guided_backprop,
    "deconvnet": deconvnet,
}
ATTACKS: Final[Mapping[str, Attack]] = {
    "fgsm": fgsm,
    "bim": bim,
    "pgd": pgd,
}
