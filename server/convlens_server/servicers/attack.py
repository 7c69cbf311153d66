"""convlens.v1.AttackService."""

from __future__ import annotations

from typing import Any

from convlens.v1 import attack_pb2, attack_pb2_grpc
from convlens_models.manifest import PROBABILITIES
from convlens_models.measures.certificate import certify
from convlens_server.quick.inference_service import InferenceService, Replies, Streamed, parts
from convlens_server.quick.robustness import measure
from convlens_server.quick.targets import resolve_goal
from convlens_server.techniques import ATTACKS


class AttackServicer(attack_pb2_grpc.AttackServiceServicer):
    """Adversarial images, each with a certificate."""

    def __init__(self, lane: InferenceService) -> None:
        self._lane = lane

    async def Attack(  # noqa: N802
        self, request: attack_pb2.AttackRequest, context: Any
    ) -> Streamed:
        """Perturb each image."""
        async for reply in self._lane.stream(self._attack, request):
            yield reply

    async def MeasureRobustness(  # noqa: N802
        self, request: attack_pb2.MeasureRobustnessRequest, context: Any
    ) -> Streamed:
        """The accuracy that an attack leaves."""
        async for reply in self._lane.stream(self._robustness, request):
            yield reply

    def _attack(self, request: attack_pb2.AttackRequest) -> Replies:
        request, backend = self._lane.admit(request)
        images = self._lane.batch(request.images, backend)
        before = backend.forward(images, [PROBABILITIES])[PROBABILITIES]
        goal = resolve_goal(request, before.argmax(axis=1))
        name = request.WhichOneof("technique") or ""
        attacked = ATTACKS[name](backend, images, goal, getattr(request, name))
        certificates = certify(
            lambda batch: backend.forward(batch, [PROBABILITIES])[PROBABILITIES],
            backend.stored.manifest.labels,
            images,
            attacked.adversarial,
            goal,
            before=before,
            queries=attacked.queries,
        )
        yield attack_pb2.AttackResponse(result=attack_pb2.AttackResult(certificates=certificates))
        tensors = {"original": images, **attacked.tensors, "adversarial": attacked.adversarial}
        yield parts(attack_pb2.AttackResponse, tensors)

    def _robustness(self, request: attack_pb2.MeasureRobustnessRequest) -> Replies:
        request, backend = self._lane.admit(request)
        images = self._lane.batch(request.images, backend)
        yield from measure(backend, images, request)
