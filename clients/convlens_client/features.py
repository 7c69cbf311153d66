"""Feature vectors of any number of images: a stream there, a stream back, without any I/O of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from convlens import wire
from convlens.v1 import inspection_pb2
from convlens_client.contract import fill
from convlens_client.images import ImageLike, ResizeLike, to_image
from convlens_client.requests.model import model_ref
from convlens_client.results import Array

PoolingName = Literal["mean", "max", "flatten"]
Named = ImageLike | tuple[str, ImageLike]
"""An image, or a pair of the name that it is known by and the image."""


class FeatureVector(NamedTuple):
    """The features of one image: its name (by default its path, or its position) and float32 (D)."""

    name: str
    vector: Array


class FeatureStream:
    """The requests for a stream of images, and the vectors of its replies.

    Args:
        layer, pooling, normalise: as `Client.features`.
    """

    def __init__(
        self, layer: str, pooling: PoolingName, normalise: bool, model: str, resize: ResizeLike | None
    ) -> None:
        self._options = inspection_pb2.FeatureOptions(model=model_ref(model))
        fill(self._options, {"layer": layer, "pooling": pooling, "normalise": normalise})
        self._resize = resize
        self._count = 0
        self.unanswered: deque[inspection_pb2.StreamFeaturesRequest] = deque()
        self.failure: Exception | None = None

    def first(self) -> inspection_pb2.StreamFeaturesRequest:
        """The request that opens the stream: model, layer and pooling."""
        return inspection_pb2.StreamFeaturesRequest(options=self._options)

    def request(self, item: Named) -> inspection_pb2.StreamFeaturesRequest:
        """The request that sends an image. Raises InvalidArgument or NotFound, which name it."""
        if isinstance(item, tuple):
            name, image = item
        else:
            name, image = str(item) if isinstance(item, (str, Path)) else str(self._count), item
        self._count += 1
        message = to_image(image, self._resize, f"image[{name!r}]")
        named = inspection_pb2.NamedImage(name=name, image=message)
        request = inspection_pb2.StreamFeaturesRequest(image=named)
        self.unanswered.append(request)
        return request

    def add(self, reply: inspection_pb2.StreamFeaturesResponse) -> Iterator[FeatureVector]:
        """Take a reply; yields the vector that it completes."""
        if reply.tensor.HasField("header"):
            self._assembler, self._total = wire.Assembler(), reply.tensor.header.total_bytes
        self._assembler.add(reply.tensor)
        if reply.tensor.HasField("chunk") and self._assembler.received == self._total:
            self.unanswered.popleft()
            yield from (FeatureVector(name, vector) for name, vector in self._assembler.finish().items())
