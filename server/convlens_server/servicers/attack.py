"""convlens.v1.AttackService."""

# ruff: noqa: N802 (the methods are named as in the proto)
from __future__ import annotations

from convlens.v1 import attack_pb2, attack_pb2_grpc
from convlens_models.attributions.targets import resolve_goal
from convlens_models.manifest import PROBABILITIES
from convlens_models.measures.certificate import certify
from convlens_server.quick import costs
from convlens_server.quick.inference_service import Replies, parts
from convlens_server.quick.robustness import measure
from convlens_server.servicers.base import InferenceServicer, streamed
from convlens_server.techniques import ATTACKS


class AttackServicer(InferenceServicer, attack_pb2_grpc.AttackServiceServicer):
    """Adversarial images, each with a certificate."""

    @streamed
    def Attack(self, request: attack_pb2.AttackRequest) -> Replies:
        """Perturb each image, and certify what that has changed."""
        request, backend, images = self.inference.admit_images(request, costs.attack)
        before = backend.forward(images, [PROBABILITIES])[PROBABILITIES]
        independent = backend.stored.manifest.independent
        goal = resolve_goal(request, before.argmax(axis=1), independent=independent)
        name = request.WhichOneof("technique") or ""
        attacked = ATTACKS[name].compute(backend, images, goal, getattr(request, name))
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

    @streamed
    def MeasureRobustness(self, request: attack_pb2.MeasureRobustnessRequest) -> Replies:
        """Measure the accuracy that an attack leaves, epsilon by epsilon."""
        request, backend, images = self.inference.admit_images(request, costs.robustness)
        yield from measure(backend, images, request)
