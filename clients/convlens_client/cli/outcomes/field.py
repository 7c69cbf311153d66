"""Where a unit looks, over the images of a collection that excite it most."""

from __future__ import annotations

import numpy as np

from convlens_client import rendering
from convlens_client.cli.common import out
from convlens_client.client import Operation
from convlens_client.rendering import Picture
from convlens_client.results import Array


def tell(operation: Operation) -> None:
    """Prints both sizes of the receptive field."""
    out.print(caption(operation))


def draw(operation: Operation) -> tuple[Array, Picture]:
    """The averaged map; and as a picture, beside the images lit where the unit looks."""
    made = operation.result()
    field = made["field"]
    sheet = field_sheet(
        field, made["images"], made["maps"], threshold(field, made["sizes"][1]), caption(operation)
    )
    return field, sheet


def threshold(field: Array, empirical: float) -> float:
    """The share of the maximum above which the field is as large as was measured: the job's own threshold."""
    area, values = round(float(empirical) ** 2), np.sort(field, axis=None)[::-1]
    return float(values[area] / (values[0] or 1.0)) if area < len(values) else -1.0


def caption(operation: Operation) -> str:
    """Both sizes, in words."""
    theoretical, empirical = operation.artifact("sizes").tolist()
    return sizes(int(theoretical), empirical)


def field_sheet(field: Array, images: Array, maps: Array, threshold: float, caption: str) -> Picture:
    """The averaged map, red above the threshold, and the images lit where the unit looks."""
    lit = [rendering.highlighted(*pair) for pair in zip(images, maps, strict=True)]
    return rendering.sheet(
        [
            (caption.replace(", ", "\n"), rendering.heat(field, threshold)),
            (f"{len(lit)} images", rendering.grid(lit)),
        ]
    )


def sizes(theoretical: int, empirical: float) -> str:
    """The caption that tells both sizes of a receptive field, in pixels."""
    return f"empirical size {empirical:.1f} px, theoretical {theoretical} px"
