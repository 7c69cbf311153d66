"""The long techniques, one file each, by their name in SubmitJobRequest."""

from __future__ import annotations

from typing import Final

from convlens_workers.techniques.base import Technique
from convlens_workers.techniques.deepdream import deepdream

TECHNIQUES: Final[dict[str, Technique]] = {
    "deepdream": deepdream,
}
