"""The same ONNX Runtime session as a custom runtime of MLServer; runs in the peers' environment."""

from __future__ import annotations

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from serving_session import open_session


class Network(MLModel):
    """One pass of the network for each request."""

    async def load(self) -> bool:
        """Open the session on all CPUs."""
        extra = self.settings.parameters.extra
        self._session = open_session(self.settings.parameters.uri, extra["threads"])
        self._outputs = [output.name for output in self._session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """All outputs of the network."""
        image: np.ndarray = NumpyCodec.decode_input(payload.inputs[0])
        values = self._session.run(self._outputs, {payload.inputs[0].name: image})
        outputs = [
            NumpyCodec.encode_output(name, value) for name, value in zip(self._outputs, values, strict=True)
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)
