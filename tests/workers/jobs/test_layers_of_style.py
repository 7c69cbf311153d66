"""What style and texture are described by where ReLUs are clipped, and what is said of it."""

from __future__ import annotations

from convlens_models.manifest import Layer
from convlens_models.repository import ModelRepository
from convlens_workers.jobs.techniques.layers import style_layers, style_warnings

PATTERNS = ModelRepository().get("patterns").manifest


def test_clipped_relus_describe_style_too_and_that_they_serve_badly_is_said():
    layers = tuple(
        Layer.model_validate({**layer.model_dump(), "kind": "Relu6" if layer.kind == "Relu" else layer.kind})
        for layer in PATTERNS.layers
    )
    clipped = PATTERNS.model_copy(update={"layers": layers})
    assert style_layers(clipped) == style_layers(PATTERNS)
    assert style_warnings(PATTERNS) == []
    (warning,) = style_warnings(clipped)
    assert "patterns has ReLUs that are clipped at 6" in warning
