"""convlens.v1.AttackService."""

from __future__ import annotations

from typing import Any

from convlens.v1 import attack_pb2, attack_pb2_grpc
from convlens_models.certificate import certify
from convlens_models.manifest import PROBABILITIES
from convlens_server.quick_lane import QuickLane, Replies, Streamed, parts
from convlens_server.robustness import measure
from convlens_server.targets import resolve_goal
from convlens_server.techniques import ATTACKS


class AttackServicer(attack_pb2_grpc.AttackServiceServicer):
    """Adversarial images, each with a certificate."""

    def __init__(self, lane: QuickLane) -> None:
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
        request, engine = self._lane.admit(request)
        images = self._lane.batch(request.images, engine)
        before = engine.forward(images, [PROBABILITIES])[PROBABILITIES]
        goal = resolve_goal(request, before.argmax(axis=1))
        name = request.WhichOneof("technique") or ""
        attacked = ATTACKS[name](engine, images, goal, getattr(request, name))
        certificates = certify(
            lambda batch: engine.forward(batch, [PROBABILITIES])[PROBABILITIES],
            engine.stored.manifest.labels,
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
        request, engine = self._lane.admit(request)
        images = self._lane.batch(request.images, engine)
        yield from measure(engine, images, request)
