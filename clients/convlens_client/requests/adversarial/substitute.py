"""The substitute-model attack."""

from __future__ import annotations

from convlens.v1 import adversarial_pb2
from convlens_client.calls import Call
from convlens_client.images import Images, ResizeLike, to_images
from convlens_client.requests.job import submit
from convlens_client.results import Snapshot


def substitute(
    images: Images,
    held_out: Images,
    *,
    victim: str = "",
    rounds: int | None = None,
    step_size: float | None = None,
    queries: int | None = None,
    epochs: int | None = None,
    epsilon: float | None = None,
    seed: int | None = None,
    model: str = "",
    resize: ResizeLike | None = None,
    request_id: str = "",
) -> Call[Snapshot]:
    """Queues a copy of `victim`, learnt from its answers alone, and attacks on the copy that fool it.

    `images` are what the first questions are about, `held_out` what agreement and transfer are measured by.
    A victim is a name that the operator has allowed; empty means this server. The other parameters are those
    of `convlens.v1.Substitute`. The report is a `SubstituteReport`.
    """
    technique = adversarial_pb2.Substitute(
        victim=victim,
        images=to_images(images, resize),
        held_out=to_images(held_out, resize),
        rounds=rounds,
        step_size=step_size,
        queries=queries,
        epochs=epochs,
        epsilon=epsilon,
    )
    return submit(technique, model=model, seed=seed, request_id=request_id)
