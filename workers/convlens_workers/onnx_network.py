"""Networks that came as ONNX graphs, for techniques that only look at values: they have no torch module."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor

from convlens_models.graph import cut
from convlens_models.manifest import INPUT
from convlens_models.repository import StoredModel


class OnnxNetwork:
    """Values of a stored graph, by ONNX Runtime on the CPU; outside of autograd."""

    def __init__(self, stored: StoredModel) -> None:
        self._stored = stored
        self._session: tuple[tuple[str, ...], ort.InferenceSession] | None = None

    def taps(self, images: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
        """Values of `layers` for images (N, 3, H, W) in [0, 1], on their device.

        Raises:
            InvalidArgument: a layer is none of the network's.
        """
        names = list(dict.fromkeys(layers))
        tensors = [self._stored.manifest.layer(name).tensor for name in names]
        wanted = tuple(sorted(set(tensors)))
        found = dict(
            zip(wanted, self._open(wanted).run(wanted, {INPUT: images.detach().cpu().numpy()}), strict=True)
        )
        return {
            name: torch.from_numpy(np.asarray(found[tensor])).to(images.device)
            for name, tensor in zip(names, tensors, strict=True)
        }

    def _open(self, wanted: tuple[str, ...]) -> ort.InferenceSession:
        """A session for these values: a job asks for the same ones again and again."""
        if self._session is None or self._session[0] != wanted:
            options = ort.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            options.log_severity_level = 3
            folder = str(self._stored.path.resolve())
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
            graph = cut(self._stored.forward(), wanted).SerializeToString()
            self._session = wanted, ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return self._session[1]
