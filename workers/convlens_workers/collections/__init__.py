"""Collections of images, shared by servers and workers: their index, files and features. Needs no torch."""

from __future__ import annotations

from convlens_workers.collections.files import CollectionFiles, Features, FeatureSet, owned
from convlens_workers.collections.index import CollectionIndex

__all__ = ["CollectionFiles", "CollectionIndex", "FeatureSet", "Features", "owned"]
