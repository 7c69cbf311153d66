"""The classifiers of IR 3 and opset 9 inside the onnx package: served as the runtime runs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
import pytest
from support.served import gradient_of, served

from convlens_models.importing import canonicalise, verify
from convlens_models.importing.onnx_import import add_onnx
from convlens_models.runtime import ort

LIGHT = sorted((Path(onnx.backend.test.__file__).parent / "data" / "light").glob("*.onnx"))


@pytest.mark.slow
@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
def test_an_old_file_has_the_scores_and_the_slopes_of_its_own_run(path: Path, tmp_path: Path):
    assert len(LIGHT) == 9
    manifest = add_onnx(tmp_path / "m", path, "x", mean=(0, 0, 0), std=(1, 1, 1))
    model = onnx.load(path)
    assert (model.ir_version, model.opset_import[0].version) == (3, 9)
    scores = canonicalise.former_name(manifest.output).removesuffix(".flat")
    model.graph.output.append(onnx.helper.make_tensor_value_info(scores, onnx.TensorProto.FLOAT, None))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(image: np.ndarray) -> np.ndarray:
        return (
            session.run([scores], {session.get_inputs()[0].name: image})[0].reshape(1, -1).astype(np.float64)
        )

    image = verify.noise(1, 224)
    expected = run(image)
    (found,) = served(tmp_path / "m", [manifest.output], image)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    cotangent = np.eye(1, found.shape[1], 7, dtype=np.float32)
    brighter = np.float32(1e-2)
    slope = (run(image + brighter) - run(image - brighter))[0, 7] / (2 * 1e-2)
    gradient = gradient_of(tmp_path / "m", image, cotangent).astype(np.float64)
    noise = 1e-4 * np.abs(expected).max()  # Of a difference in float32 over so small a step.
    assert gradient.sum() == pytest.approx(slope, rel=2e-2, abs=noise)
    assert manifest.multiply_adds > 1e8
    assert len([layer for layer in manifest.layers if layer.kind == "Conv" and layer.weight]) >= 5
