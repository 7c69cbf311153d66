"""The images that a job about units looks at, chosen when it is submitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from convlens.v1 import inspection_pb2, job_pb2
from convlens_models.manifest import Manifest
from convlens_models.measures.discrepancy import Patches
from convlens_models.measures.units import check_channel
from convlens_server.collections.examples import select_examples
from convlens_server.collections.features import Shards, Table
from convlens_server.collections.top_activations import top_activations
from convlens_workers.collections import FeatureSet

PATH = "measure_receptive_field."


def select_for_field(
    shards: Shards, params: job_pb2.MeasureReceptiveField, manifest: Manifest, order: Sequence[str]
) -> None:
    """Fill in the `k` images of the collection that excite the unit most, strongest first; blocks.

    Raises:
        InvalidArgument: the layer has no spatial axes, no such channel, or a patch that does not fit.
        FailedPrecondition: images without features.
    """
    side, discrepancy = manifest.input_size, params.discrepancy
    check_channel(manifest.layer(params.layer).shape, params.layer, params.channel, PATH)
    Patches(discrepancy.patch, discrepancy.stride, 0).check((side, side), f"{PATH}discrepancy")
    which = FeatureSet(manifest.digest, params.layer, inspection_pb2.POOLING_MAX)
    table = Table(shards, params.collection, which, order)
    table.check()
    del params.images[:]
    params.images.extend(order[top.position] for top in top_activations(table, params.channel, params.k))


Select = Callable[[Shards, Any, Manifest, Sequence[str]], None]
SELECTIONS: Final[dict[str, Select]] = {
    "feature_visualisation": select_examples,
    "measure_receptive_field": select_for_field,
}
"""By technique; called where it names a collection."""
