"""Which networks a job is bound to: those whose version it states, by the digests that the server saw.

Those that it leaves unnamed are the default model that the server had, whatever a worker finds later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from google.protobuf.message import Message

from convlens.errors import FailedPrecondition
from convlens.v1 import job_pb2, model_pb2
from convlens_models.manifest import Manifest
from convlens_models.repository import ModelRepository


def name_defaults(request: Message, repository: ModelRepository) -> None:
    """Name the default model wherever the message names a model without a name."""
    for ref in _refs(request):
        ref.name = ref.name or repository.default


def digests(request: job_pb2.SubmitJobRequest, repository: ModelRepository) -> dict[str, str]:
    """Digests by "name/version" of all networks of a request whose version it states. Raises NotFound."""
    stated = {(ref.name, ref.version) for ref in _refs(request) if ref.HasField("version")}
    manifests = (repository.get(*each).manifest for each in sorted(stated))
    return {_key(manifest): manifest.digest for manifest in manifests}


def check(manifest: Manifest, bound: Mapping[str, str]) -> None:
    """Raise FailedPrecondition, reason MODEL_CHANGED, where a job is bound to another one of that name."""
    wanted = bound.get(_key(manifest), manifest.digest)
    if wanted != manifest.digest:
        text = (
            f"model {_key(manifest)} has the digest {manifest.digest} on this worker, and had {wanted} when "
            "the job was submitted; submit it anew, or give the worker the server's models"
        )
        raise FailedPrecondition(text, reason="MODEL_CHANGED", field="model")


def _key(manifest: Manifest) -> str:
    return f"{manifest.name}/{manifest.version}"


def _refs(message: Message) -> Iterator[model_pb2.ModelRef]:
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for each in value if field.is_repeated else [value]:
            if isinstance(each, model_pb2.ModelRef):
                yield each
            else:
                yield from _refs(each)
